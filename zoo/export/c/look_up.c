
/* Replace each of `pixels` pixels by its entries in `table`, or in one table per channel if `stride` is 256. */
static void look_up(const uint8_t *table, int stride, const uint8_t *x, int32_t pixels, int channels, uint8_t *y,
                    int all_channels, int before)
{
    for (int32_t pixel = 0; pixel < pixels; pixel++)
        for (int channel = 0; channel < channels; channel++)
            y[pixel * all_channels + before + channel] = table[channel * stride + x[pixel * channels + channel]];
}
