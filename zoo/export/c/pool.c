
struct pool {
    int height, width, channels, zero_point;
    int kernel[2], stride[2], padding[2], dilation[2];
    int out_height, out_width;
    int divisor; /* of an average: the number of pixels, or 0 for those of each window that are inside */
};
