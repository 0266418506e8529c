"""The tests marked as slow.

    pytest -m 'not gpu' -vv --durations=0 > log; python tests/slow.py log

writes tests/slow.txt and the table of docs/testing.md. Tests above 0.7 s are slow, except the fastest of each
function, unless that takes more than 5 s: most behaviour stays tested in the default run, on a small net.
"""

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

LIST = Path(__file__).with_name("slow.txt")
PAGE = LIST.parents[1] / "docs" / "testing.md"
SECONDS, SECONDS_OF_FASTEST = 0.7, 5.0


def slow_tests() -> set[str]:
    return {line.split("\t")[1] for line in LIST.read_text().splitlines()}


def seconds_of(log: Path) -> Counter[str]:
    """Return the duration of each test, with its setup, from pytest's list of durations."""
    seconds: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        if match := re.match(r"([0-9.]+)s (?:call|setup|teardown) +(\S+::.*)$", line):
            seconds[match[2].strip()] += float(match[1])
    return seconds


def write(log: Path) -> None:
    seconds, by_function = seconds_of(log), defaultdict(list)
    for test in seconds:
        by_function[test.partition("[")[0]].append(test)
    slow = {test for test, num in seconds.items() if num > SECONDS}
    for tests in by_function.values():
        fastest = min(tests, key=seconds.__getitem__)
        if slow.issuperset(tests) and seconds[fastest] <= SECONDS_OF_FASTEST:
            slow.remove(fastest)
    LIST.write_text("".join(f"{seconds[test]:.1f}\t{test}\n" for test in sorted(slow)))
    rows = []
    for function, tests in by_function.items():
        if left := [test for test in tests if test in slow]:
            rows.append((sum(seconds[test] for test in left), function, len(left), len(tests)))
    table = "".join(
        f"| `{name}` | {num} of {every} | {total:.0f} |\n" for total, name, num, every in sorted(rows, reverse=True)
    )
    head = "| test | slow | seconds |\n|---|---:|---:|\n"
    text = PAGE.read_text()
    PAGE.write_text(
        re.sub(r"(<!-- slow -->\n).*?(<!-- end -->)", lambda m: m[1] + head + table + m[2], text, flags=re.S)
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
