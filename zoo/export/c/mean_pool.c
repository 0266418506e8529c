
/* Average integers and round to the nearest, from the middle to even. */
static void mean_pool(const struct pool *p, const uint8_t *x, uint8_t *y)
{
    for (int row = 0; row < p->out_height; row++)
        for (int column = 0; column < p->out_width; column++) {
            int top = row * p->stride[0] - p->padding[0], left = column * p->stride[1] - p->padding[1];
            struct taps rows = taps_inside(top, p->height, p->kernel[0], 1);
            struct taps columns = taps_inside(left, p->width, p->kernel[1], 1);
            int32_t inside = (int32_t)(rows.end - rows.first) * (columns.end - columns.first);
            int32_t divisor = p->divisor ? p->divisor : inside;
            for (int channel = 0; channel < p->channels; channel++) {
                int32_t sum = 0;
                for (int i = rows.first; i < rows.end; i++)
                    for (int j = columns.first; j < columns.end; j++)
                        sum += x[((int32_t)(top + i) * p->width + left + j) * p->channels + channel] - p->zero_point;
                int32_t twice = 2 * sum + divisor, mean = twice / (2 * divisor), rest = twice % (2 * divisor);
                if (rest < 0) /* C rounds quotients towards 0 */
                    mean--;
                if (rest == 0 && (mean & 1))
                    mean--;
                *y++ = (uint8_t)clamped(mean + p->zero_point, 0, 255);
            }
        }
}
