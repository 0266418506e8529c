
static void max_pool(const struct pool *p, const uint8_t *x, uint8_t *y)
{
    for (int row = 0; row < p->out_height; row++)
        for (int column = 0; column < p->out_width; column++) {
            int top = row * p->stride[0] - p->padding[0], left = column * p->stride[1] - p->padding[1];
            struct taps rows = taps_inside(top, p->height, p->kernel[0], p->dilation[0]);
            struct taps columns = taps_inside(left, p->width, p->kernel[1], p->dilation[1]);
            for (int channel = 0; channel < p->channels; channel++) {
                uint8_t most = 0;
                for (int i = rows.first; i < rows.end; i++)
                    for (int j = columns.first; j < columns.end; j++) {
                        int32_t pixel = (int32_t)(top + i * p->dilation[0]) * p->width + left + j * p->dilation[1];
                        uint8_t one = x[pixel * p->channels + channel];
                        most = one > most ? one : most;
                    }
                *y++ = most;
            }
        }
}
