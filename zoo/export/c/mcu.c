/* Run a network of the zoo on a Cortex-M board that QEMU emulates, with files and output by Arm's semihosting: reads
   images.bin, and prints for each image the ticks of the system timer that it took, and its scores. The first line is
   the ticks of 2,000,000 instructions, by which ticks are converted to instructions. */
#include <stdint.h>

#define OPEN 0x01
#define WRITE0 0x04
#define READ 0x06
#define EXIT 0x18
#define TIMER ((volatile uint32_t *)0xE000E010) /* control, reload, current */

void zoo_scores(const uint8_t *image, int32_t *scores);
static void start(void);

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[] = {STACK, (uintptr_t)start};

static uintptr_t semihosting(uintptr_t operation, const void *argument)
{
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(int32_t number, char end)
{
    char text[13], *at = text + 11;
    uint32_t rest = number < 0 ? 0U - (uint32_t)number : (uint32_t)number;
    text[11] = end;
    text[12] = 0;
    do {
        *--at = (char)('0' + rest % 10);
    } while (rest /= 10);
    if (number < 0)
        *--at = '-';
    semihosting(WRITE0, at);
}

static uint32_t ticks(void)
{
    return 0xFFFFFF - TIMER[2];
}

static void start(void)
{
    static uint8_t image[IMAGE_BYTES];
    static int32_t scores[NUM_CLASSES];
    uintptr_t open[] = {(uintptr_t)"images.bin", 1, 10}, read[] = {0, (uintptr_t)image, sizeof image};
    uint32_t before;

    TIMER[1] = 0xFFFFFF;
    TIMER[2] = 0;
    TIMER[0] = 5;
    before = ticks();
    __asm__ volatile("mov r0, %0\n1: subs r0, r0, #1\n bne 1b" : : "r"(1000000) : "r0", "cc");
    print((int32_t)((ticks() - before) & 0xFFFFFF), '\n');
    read[0] = semihosting(OPEN, open);
    while (semihosting(READ, read) == 0) {
        before = ticks();
        zoo_scores(image, scores);
        print((int32_t)((ticks() - before) & 0xFFFFFF), ' ');
        for (int i = 0; i < NUM_CLASSES; i++)
            print(scores[i], i + 1 < NUM_CLASSES ? ' ' : '\n');
    }
    semihosting(EXIT, (const void *)0x20026); /* the application has ended */
    for (;;)
        ;
}
