
#ifdef ZOO_MAIN
#include <stdio.h>

/* Read images from stdin and print the scores of each in one line. */
int main(void)
{
    static uint8_t image[ZOO_IMAGE_BYTES];
    int32_t scores[ZOO_NUM_CLASSES];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        zoo_scores(image, scores);
        for (int i = 0; i < ZOO_NUM_CLASSES; i++)
            printf("%ld%c", (long)scores[i], i + 1 < ZOO_NUM_CLASSES ? ' ' : '\n');
        fflush(stdout);
    }
    return 0;
}
#endif
