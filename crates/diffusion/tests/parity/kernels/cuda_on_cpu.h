// Stands in for CUDA where the kernels' own source is compiled for a CPU. A block's threads are fibres on one thread: each
// runs until it waits for others, at __syncthreads or in a shuffle, then the next one does. Shared memory begins as NaN.
#pragma once
#define CUDA_ON_CPU
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
alignas(16) static unsigned char dynamic_shared[228 << 10];

struct Fibre { jmp_buf at; bool begun, done; };
static Fibre fibres[1024];
static jmp_buf scheduler;
static void (*kernel_body)(void**);
static void** kernel_arguments;
static float shuffled[1024];

static void wait_for_others() {
  const unsigned me = threadIdx.x;
  if (!_setjmp(fibres[me].at)) _longjmp(scheduler, 1);
  threadIdx.x = me;
}
static void __syncthreads() { wait_for_others(); }
static float __shfl_xor_sync(unsigned, float x, int other) {
  shuffled[threadIdx.x] = x;
  wait_for_others();
  const float theirs = shuffled[threadIdx.x ^ other];
  wait_for_others(); // Before anybody writes the next one.
  return theirs;
}
// Runs a thread of a block, then waits to be one of the next block.
static void fibre() {
  for (;;) {
    kernel_body(kernel_arguments);
    fibres[threadIdx.x].done = true;
    if (!_setjmp(fibres[threadIdx.x].at)) _longjmp(scheduler, 1);
  }
}

static void begin(Fibre& f) {
  static ucontext_t context, back;
  enum { STACK = 64 << 10 };
  getcontext(&context);
  context.uc_stack.ss_sp = malloc(STACK); // For good.
  context.uc_stack.ss_size = STACK;
  makecontext(&context, fibre, 0);
  f.begun = true;
  swapcontext(&back, &context);
}

// Whether blocks and threads go from the last to the first. Nothing may depend on it.
static bool backwards;
extern "C" void go_backwards(int yes) { backwards = yes; }

// Every block after the other. Behind the `shared` bytes that the launch asks for, a kernel reads NaN.
static void run_grid(dim3 grid, unsigned block, unsigned shared, void (*body)(void**), void** arguments) {
  gridDim = grid, blockDim = dim3{block, 1, 1}, kernel_body = body, kernel_arguments = arguments;
  const unsigned blocks = grid.x * grid.y;
  for (volatile unsigned b = 0; b < blocks; b = b + 1) {
    const unsigned at = backwards ? blocks - 1 - b : b;
    blockIdx = dim3{at % grid.x, at / grid.x, 0};
    memset(dynamic_shared, 0xff, shared + 4096);
    for (unsigned t = 0; t < block; t++) fibres[t].done = false;
    for (volatile bool running = true; running;) {
      running = false;
      for (volatile unsigned i = 0; i < block; i = i + 1) {
        const unsigned t = backwards ? block - 1 - i : i;
        Fibre& f = fibres[t];
        if (f.done) continue;
        running = true;
        threadIdx = dim3{t, 0, 0};
        if (_setjmp(scheduler)) continue;
        if (f.begun) _longjmp(f.at, 1);
        begin(f);
      }
    }
  }
}

static inline int min(int a, int b) { return a < b ? a : b; }

// Builtins: to read C++'s math.h takes longer than to compile the kernels.
#define __expf __builtin_expf
#define erff __builtin_erff
#define fabsf __builtin_fabsf
#define sqrt __builtin_sqrt
static inline float __fdividef(float x, float y) { return x / y; }
static inline float rsqrtf(float x) { return 1 / __builtin_sqrtf(x); }
