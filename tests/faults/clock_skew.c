/* Another wall clock for one process: LD_PRELOAD this, and name a file that holds a `struct skew` in CLOCK_SKEW.

   Only CLOCK_REALTIME is shifted, as by an administrator or a bad time server; timers on CLOCK_MONOTONIC stay right.
   The file is mapped: what is written to it holds at once. gRPC waits with the kernel's own wall clock for deadlines
   that it has read from ours, so these are shifted back. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct skew {
    double offset_s;
    double rate;
    uint64_t asked;
};

static struct skew *skew;
static double started;
static int (*kernel_time)(clockid_t, struct timespec *);
static long (*kernel_call)(long, ...);

static double seconds(const struct timespec *t) { return t->tv_sec + t->tv_nsec / 1e9; }

static void put(struct timespec *t, double value) {
    t->tv_sec = (time_t)floor(value);
    t->tv_nsec = (long)((value - floor(value)) * 1e9);
}

static double shown(double real) { return real + skew->offset_s + (skew->rate - 1) * (real - started); }

static double meant(double shown) { return started + (shown - skew->offset_s - started) / skew->rate; }

__attribute__((constructor)) static void begin(void) {
    struct timespec now;
    const char *path = getenv("CLOCK_SKEW");
    kernel_time = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    kernel_call = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    kernel_time(CLOCK_REALTIME, &now);
    started = seconds(&now);
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *map = mmap(NULL, sizeof *skew, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        skew = map == MAP_FAILED ? NULL : map;
        close(file);
    }
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    if (!kernel_time) /* another library's constructor, before ours */
        kernel_time = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = kernel_time(clock, t);
    if (!failed && skew && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        put(t, shown(seconds(t)));
        __atomic_fetch_add(&skew->asked, 1, __ATOMIC_RELAXED);
    }
    return failed;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

long syscall(long number, ...) {
    long a[6];
    struct timespec deadline;
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (!kernel_call)
        kernel_call = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (skew && number == SYS_futex && a[1] & FUTEX_CLOCK_REALTIME && a[3]) {
        put(&deadline, meant(seconds((const struct timespec *)a[3])));
        a[3] = (long)&deadline;
    }
    return kernel_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
