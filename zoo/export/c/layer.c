
/* A convolution, a linear layer (its kernel is the whole map) or neither, and the sum of it and `parts`. */
struct layer {
    const int8_t *weights;           /* output channel, kernel row, kernel column, input channel; or NULL */
    const int64_t *scales, *offsets; /* per output channel if there are weights, in units of 2^-shift output steps */
    int shift;
    int height, width, channels, zero_point; /* of the input */
    int kernel[2], stride[2], padding[2], dilation[2], groups;
    int out_height, out_width, out_channels;
    int all_channels, before; /* channels per pixel of the output tensor, and those before this layer's */
    int out_zero_point;
    int32_t low, high; /* the range of the output, which includes the effect of a ReLU */
};

/* Another term of the sum: a tensor of which every `step`-th row and column is read. */
struct part {
    const uint8_t *x;
    int64_t scale;
    int width, channels, step[2];
};

static int32_t dot(const uint8_t *x, const int8_t *weights, int size, int zero_point)
{
    int32_t sum = 0;
    for (int i = 0; i < size; i++)
        sum += (x[i] - zero_point) * weights[i];
    return sum;
}

static int32_t product(const struct layer *l, const uint8_t *x, int row, int column, int channel)
{
    int depth = l->channels / l->groups, group = channel / (l->out_channels / l->groups);
    int top = row * l->stride[0] - l->padding[0], left = column * l->stride[1] - l->padding[1];
    struct taps rows = taps_inside(top, l->height, l->kernel[0], l->dilation[0]);
    struct taps columns = taps_inside(left, l->width, l->kernel[1], l->dilation[1]);
    const int8_t *weights = l->weights + (int32_t)channel * l->kernel[0] * l->kernel[1] * depth;
    int is_whole = l->groups == 1 && l->dilation[1] == 1; /* the taps of a row are neighbours in memory */
    int32_t sum = 0;

    for (int i = rows.first; i < rows.end; i++)
        for (int j = columns.first; j < columns.end; j++) {
            int run = is_whole ? columns.end - columns.first : 1;
            int y = top + i * l->dilation[0], z = left + j * l->dilation[1];
            sum += dot(x + ((int32_t)y * l->width + z) * l->channels + group * depth,
                       weights + (i * l->kernel[1] + j) * depth, run * depth, l->zero_point);
            j += run - 1;
        }
    return sum;
}

/* Divide by 2^shift and round to the nearest, from the middle to even; >> must keep the sign, as compilers do. */
static int64_t rounded(int64_t value, int shift)
{
    int64_t half = (int64_t)1 << (shift - 1), found = (value + half) >> shift;
    int is_middle = ((value + half) & (2 * half - 1)) == 0;
    return found - (is_middle && (found & 1));
}

/* Write a layer's output to `y` or, for the last layer, to `scores`. */
static void layer(const struct layer *l, const uint8_t *x, const struct part *parts, int num_parts, uint8_t *y,
                  int32_t *scores)
{
    for (int row = 0; row < l->out_height; row++)
        for (int column = 0; column < l->out_width; column++)
            for (int channel = 0; channel < l->out_channels; channel++) {
                int64_t value = l->offsets[l->weights ? channel : 0];
                if (l->weights)
                    value += product(l, x, row, column, channel) * l->scales[channel];
                for (int i = 0; i < num_parts; i++) {
                    const struct part *p = parts + i;
                    int32_t pixel = (int32_t)row * p->step[0] * p->width + column * p->step[1];
                    value += p->x[pixel * p->channels + channel] * p->scale;
                }
                value = clamped(rounded(value, l->shift) + l->out_zero_point, l->low, l->high);
                if (scores)
                    scores[channel] = (int32_t)value;
                else
                    y[((int32_t)row * l->out_width + column) * l->all_channels + l->before + channel] = (uint8_t)value;
            }
}
