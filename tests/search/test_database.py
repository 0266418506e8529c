"""A truncated or changed study database is reported in one sentence, before a trial starts."""

import random
import sqlite3
import struct

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from zoo.errors import BadInput
from zoo.search import study
from zoo.search.space import distributions, draw

SPACE = ["optim.lr=tag(log, interval(1e-4, 1e-1))", "data.batch_size=32,64"]
PRODUCT = {"metric": "val/accuracy", "mode": "max"}
CFG = {"name": "found", "space": SPACE, "sampler": "random", "pruner": "median", "callbacks": {"product": PRODUCT}}
CFG |= {"cost": None}
FIXED = ["model=lenet5", "trainer=cpu"]


def opened(place):
    return study._opened(place, OmegaConf.create(CFG), FIXED, distributions(SPACE))


def read(place):
    """Read all data that a search uses."""
    with opened(place) as found:
        kept = ("overrides", "space", "metric", "sampler", "pruner")
        trials = [
            (t.number, t.state, t.values, t.params, t.intermediate_values) for t in found.get_trials(deepcopy=False)
        ]
        return [found.study_name, found.direction, {key: found.user_attrs[key] for key in kept}, trials]


@pytest.fixture
def place(tmp_path):
    with opened(tmp_path / "found") as found:
        for number, state in enumerate((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE)):
            trial = study.begun(found, "random", seed=1)
            draw(trial, distributions(SPACE))
            for epoch in range(1, 4):
                trial.report(0.1 * epoch + number / 100, epoch)
            values = [0.5 + number / 100] if state == TrialState.COMPLETE else None
            study._Running(trial, None, 3)._tell(found, values, state, "ended")
    (tmp_path / "found/trial_000").mkdir()
    return tmp_path / "found"


@pytest.mark.parametrize("flips", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_cut_and_no_flipped_bit_ends_in_a_traceback_or_changes_a_trial(place, flips):
    file, whole, draw_ = place / "study.db", read(place), random.Random(0)
    content = file.read_bytes()
    used = [page for page in range(0, len(content), 4096) if any(content[page : page + 4096])]
    damages = [content[: len(content) * i // 10] for i in range(1, 10)]
    for _ in range(flips):
        place_, bit = draw_.choice(used) + draw_.randrange(4096), draw_.randrange(8)
        damages.append(content[:place_] + bytes([content[place_] ^ 1 << bit]) + content[place_ + 1 :])
    wrong = []
    for damaged in damages:
        file.write_bytes(damaged)
        try:
            if read(place) != whole:
                wrong.append("another study")
        except BadInput as error:
            if str(place) not in str(error) or "\n" in str(error):
                wrong.append(str(error))
    assert wrong == []


def change(place, statement):
    with sqlite3.connect(place / "study.db") as database:
        assert database.execute(statement).rowcount > 0
    database.close()


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE trial_values SET value = 0.99 WHERE trial_id = 1", "checksum of trial 0"),
        ("UPDATE trial_params SET param_value = 0.05 WHERE trial_id = 4 AND param_name = 'optim.lr'", "of trial 3"),
        ("UPDATE trial_intermediate_values SET intermediate_value = 0.9 WHERE trial_id = 2", "of trial 1"),
        ("UPDATE trials SET state = 'COMPLETE' WHERE trial_id = 2", "of trial 1"),
        ("UPDATE trials SET state = 'ENDED' WHERE trial_id = 1", "ENDED"),
        ("UPDATE study_directions SET direction = 'MINIMIZE'", "another direction"),
        ("UPDATE studies SET study_name = 'other'", "lost its trials"),
        ("UPDATE trial_params SET distribution_json = '{}'", "damaged"),
        ("UPDATE trial_params SET param_value = 2 WHERE param_name = 'optim.lr'", "not drawn from its space"),
        ("UPDATE study_user_attributes SET value_json = '[' WHERE key = 'space'", "damaged"),
    ],
)
def test_a_study_that_was_changed_says_where(place, statement, why):
    change(place, statement)
    with pytest.raises(BadInput, match=rf"study\.db is damaged \(.*{why}|{why}"):
        read(place)


def test_trials_of_earlier_versions_have_no_checksum_and_are_read(place):
    whole = read(place)
    change(place, "DELETE FROM trial_user_attributes WHERE key = 'checksum'")
    assert read(place) == whole


def test_studies_of_earlier_versions_have_no_cost_and_go_on_only_without_one(place):
    whole = read(place)
    change(place, "DELETE FROM study_user_attributes WHERE key = 'cost'")
    assert read(place) == whole
    change(place, "DELETE FROM study_user_attributes WHERE key = 'cost'")
    other = OmegaConf.create({**CFG, "cost": "bytes"})
    with pytest.raises(BadInput, match=r"a search with cost None, not bytes; another name= begins a new one"):
        study._opened(place, other, FIXED, distributions(SPACE)).__enter__()


def test_a_study_that_is_a_link_or_a_pipe_is_not_opened(place, tmp_path):
    (place / "study.db").rename(tmp_path / "study.db")
    (place / "study.db").symlink_to(tmp_path / "study.db")
    with pytest.raises(BadInput, match="is a link"):
        read(place)
    optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (
            "ALTER TABLE trial_values RENAME TO kept; CREATE VIEW trial_values AS WITH RECURSIVE more(n) AS "
            "(SELECT 1 UNION ALL SELECT n + 1 FROM more) SELECT n AS trial_value_id FROM more",
            "it has a view trial_values",
        ),
        (
            "CREATE TRIGGER evil AFTER UPDATE ON trials BEGIN DELETE FROM trials; END",
            "it has a trigger evil",
        ),
        ("CREATE TABLE evil (a INTEGER, b AS (a * 2))", "it has a table evil"),
        (
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (4, 'judged2', '1'); "
            "UPDATE trial_user_attributes SET value_json = '\"x\"' WHERE key = 'judged2'; "
            "UPDATE trial_user_attributes SET key = 'judged' WHERE key = 'judged2'",
            "trial 3 has an invalid epoch",
        ),
    ],
    ids=["endless view", "trigger", "computed column", "judged"],
)
def test_a_study_that_would_compute_or_is_of_another_kind_is_refused(place, statements, why):
    database = sqlite3.connect(place / "study.db")
    database.executescript(statements)
    database.close()
    with pytest.raises(BadInput, match=rf"study\.db is damaged \({why}"):
        read(place)


def test_a_journal_that_names_another_file_is_refused_and_that_file_stays(place):
    """After replaying a journal, SQLite removes the file named at its end."""
    victim, journal = place.parent / "victim", place / "study.db-journal"
    victim.write_text("kept")
    name = str(victim).encode()
    sums = sum(name) & 0xFFFFFFFF
    end = struct.pack(">I", 1) + name + struct.pack(">II", len(name), sums) + bytes.fromhex("d9d505f920a163d7")
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 0, 0, 512, 4096)
    journal.write_bytes(header.ljust(512, b"\0") + end)
    with pytest.raises(BadInput, match="its journal names another file"):
        read(place)
    assert victim.read_text() == "kept"


def test_a_journal_of_a_killed_search_is_played_back(place):
    whole = read(place)
    (place / "study.db-journal").write_bytes(b"")
    assert read(place) == whole
