#include <stdint.h>
#include <string.h>

/* The taps of a kernel, from `first` up to but not including `end`, that are inside of an axis of `size`. */
struct taps {
    int first, end;
};

static inline struct taps taps_inside(int start, int size, int kernel, int dilation)
{
    struct taps found;
    found.first = start < 0 ? (-start + dilation - 1) / dilation : 0;
    found.end = start < size ? (size - 1 - start) / dilation + 1 : 0;
    if (found.end > kernel)
        found.end = kernel;
    return found;
}

static inline int64_t clamped(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}
