// Sound kernels on the emulated GPU: every word of CUDA C that it knows, against plain loops.
// Integers and sums of small integers, which are exact in every order; the tolerance of the one
// matrix product is explained there. Run under several orders of execution (CMakeLists.txt).
#include "emulation_check.h"

#include <time.h>

static __global__ void sum_rows(int *out, const int *x, int n) {
    __shared__ int of_warp[32];
    int total = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) total += x[blockIdx.x * n + i];
    for (int distance = 16; distance > 0; distance /= 2)
        total += __shfl_xor_sync(ALL, total, distance);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = total;
    __syncthreads();
    if (threadIdx.x < 32) {
        int mine = threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0;
        for (int distance = 16; distance > 0; distance /= 2)
            mine += __shfl_down_sync(ALL, mine, distance);
        if (threadIdx.x == 0) out[blockIdx.x] = mine;
    }
}
static void sums_of_rows_are_exact() {
    int rows = 37, n = 201;
    std::vector<int> x((size_t)(rows * n));
    for (size_t i = 0; i < x.size(); i++) x[i] = (int)(i * 7 % 1001) - 500;
    int *out = device<int>((size_t)rows);
    start(nullptr, sum_rows, dim3(rows), dim3(160), 0, out, device(x), n);
    std::vector<int> got = host(out, (size_t)rows);
    for (int r = 0; r < rows; r++) {
        int want = 0;
        for (int i = 0; i < n; i++) want += x[(size_t)(r * n + i)];
        EXPECT(got[(size_t)r] == want);
    }
}

// Hillis and Steele's inclusive scan of one block, in dynamic shared memory with two buffers.
static __global__ void scan(int *x) {
    DYNAMIC_SHARED(int, buffer);
    int t = threadIdx.x, n = blockDim.x, from = 0;
    buffer[t] = x[t];
    __syncthreads();
    for (int distance = 1; distance < n; distance *= 2, from = 1 - from) {
        int sum = buffer[from * n + t] + (t >= distance ? buffer[from * n + t - distance] : 0);
        buffer[(1 - from) * n + t] = sum;
        __syncthreads();
    }
    x[t] = buffer[from * n + t];
}
static void scan_of_a_block_is_exact() {
    for (int n : {1, 31, 32, 33, 1024}) {
        int *x = device(counting(n));
        start(nullptr, scan, dim3(1), dim3(n), (size_t)(2 * n) * sizeof(int), x);
        std::vector<int> got = host(x, (size_t)n);
        for (int i = 0; i < n; i++) EXPECT(got[(size_t)i] == i * (i + 1) / 2);
    }
}

// out (cases, 32)
static __global__ void shuffle_all(long long *out) {
    int lane = threadIdx.x;
    long long wide = (1ll << 40) + lane;
    out[0 * 32 + lane] = __shfl_sync(ALL, lane, 5);
    out[1 * 32 + lane] = __shfl_sync(ALL, wide, lane + 1, 8);
    out[2 * 32 + lane] = __shfl_up_sync(ALL, lane, 3);
    out[3 * 32 + lane] = __shfl_up_sync(ALL, lane, 3, 8);
    out[4 * 32 + lane] = __shfl_down_sync(ALL, lane, 3, 16);
    out[5 * 32 + lane] = __shfl_xor_sync(ALL, lane, 9);
    out[6 * 32 + lane] = (long long)__shfl_down_sync(ALL, 0.5 + lane, 30);
    __nv_bfloat162 pair = __floats2bfloat162_rn((float)lane, (float)(lane + 32));
    out[7 * 32 + lane] = (long long)__bfloat162float(__shfl_xor_sync(ALL, pair, 1).y);
    __nv_bfloat16 half = __float2bfloat16_rn((float)lane);
    out[8 * 32 + lane] = (long long)__bfloat162float(__shfl_sync(ALL, half, 31 - lane));
    // Two halves of the warp on their own, then a mask of odd lanes.
    if (lane < 16)
        out[9 * 32 + lane] = __shfl_xor_sync(0xffffu, lane, 1);
    else
        out[9 * 32 + lane] = __shfl_xor_sync(0xffff0000u, lane, 2);
    out[10 * 32 + lane] = lane & 1 ? __shfl_xor_sync(0xaaaaaaaau, lane, 2) : -1;
}
static void shuffles_move_what_cuda_says() {
    long long *out = device<long long>(11 * 32);
    start(nullptr, shuffle_all, dim3(1), dim3(32), 0, out);
    std::vector<long long> got = host(out, 11 * 32);
    for (int lane = 0; lane < 32; lane++) {
        auto at = [&](int row) { return got[(size_t)(row * 32 + lane)]; };
        EXPECT(at(0) == 5);
        EXPECT(at(1) == (1ll << 40) + (lane / 8 * 8 + (lane + 1) % 8));
        EXPECT(at(2) == (lane >= 3 ? lane - 3 : lane));
        EXPECT(at(3) == (lane % 8 >= 3 ? lane - 3 : lane));
        EXPECT(at(4) == (lane % 16 + 3 < 16 ? lane + 3 : lane));
        EXPECT(at(5) == (lane ^ 9));
        EXPECT(at(6) == (lane + 30 < 32 ? lane + 30 : lane));
        EXPECT(at(7) == (lane ^ 1) + 32);
        EXPECT(at(8) == 31 - lane);
        EXPECT(at(9) == (lane < 16 ? lane ^ 1 : lane ^ 2));
        EXPECT(at(10) == (lane & 1 ? lane ^ 2 : -1));
    }
}

// out (cases, threads): a block of 3 warps and 5 threads
static __global__ void vote_all(unsigned *out) {
    unsigned t = threadIdx.x, n = blockDim.x, lane = t % 32;
    out[0 * n + t] = __ballot_sync(ALL, t % 3 == 0);
    out[1 * n + t] = (unsigned)__any_sync(ALL, t == 40);
    out[2 * n + t] = (unsigned)__all_sync(ALL, t < 64);
    out[3 * n + t] = __match_any_sync(ALL, lane / 5);
    out[4 * n + t] = __reduce_add_sync(ALL, t);
    out[5 * n + t] = (unsigned)__reduce_min_sync(ALL, 3 - (int)t);
    out[6 * n + t] = (unsigned)__reduce_max_sync(ALL, (int)t - 3);
    out[7 * n + t] = __reduce_max_sync(ALL, t);
    out[8 * n + t] = __reduce_or_sync(ALL, 1u << lane % 8);
    out[9 * n + t] = (unsigned)__syncthreads_count(t % 2 == 0);
    out[10 * n + t] = (unsigned)__syncthreads_or(t == 7) + 2 * (unsigned)__syncthreads_or(t > n);
    out[12 * n + t] = __reduce_min_sync(ALL, t);
    out[13 * n + t] = __reduce_and_sync(ALL, t | 0x100u);
    out[14 * n + t] = __reduce_xor_sync(ALL, t);
    out[11 * n + t] = (unsigned)__syncthreads_and(t < n) + 2 * (unsigned)__syncthreads_and(t > 0);
}
static void votes_count_the_lanes_there_are() {
    int n = 101;
    unsigned *out = device<unsigned>((size_t)(15 * n));
    start(nullptr, vote_all, dim3(1), dim3(n), 0, out);
    std::vector<unsigned> got = host(out, (size_t)(15 * n));
    for (int t = 0; t < n; t++) {
        int first = t / 32 * 32, last = std::min(first + 32, n) - 1;
        unsigned ballot = 0, sum = 0, matches = 0, all_bits = ~0u, odd_bits = 0;
        for (int i = first; i <= last; i++) {
            ballot |= (unsigned)(i % 3 == 0) << (i - first);
            matches |= (unsigned)((i - first) / 5 == (t - first) / 5) << (i - first);
            sum += (unsigned)i;
            all_bits &= (unsigned)i | 0x100u;
            odd_bits ^= (unsigned)i;
        }
        auto at = [&](int row) { return got[(size_t)(row * n + t)]; };
        EXPECT(at(0) == ballot);
        EXPECT(at(1) == (first == 32));
        EXPECT(at(2) == (last < 64));
        EXPECT(at(3) == matches);
        EXPECT(at(4) == sum);
        EXPECT((int)at(5) == 3 - last);
        EXPECT((int)at(6) == last - 3);
        EXPECT((int)at(7) == last);
        EXPECT(at(8) == (last - first >= 7 ? 255u : (1u << (last - first + 1)) - 1));
        EXPECT(at(9) == 51);
        EXPECT(at(10) == 1);
        EXPECT(at(11) == 1);
        EXPECT((int)at(12) == first);
        EXPECT(at(13) == all_bits);
        EXPECT(at(14) == odd_bits);
    }
}

enum { TILE = 32, TILE_ROWS = 8 };
static __global__ void transpose(int *out, const int *in, int rows, int columns) {
    __shared__ int tile[TILE][TILE + 1];
    int left = blockIdx.x * TILE, top = blockIdx.y * TILE, x = threadIdx.x;
    for (int y = threadIdx.y; y < TILE; y += TILE_ROWS)
        if (top + y < rows && left + x < columns) tile[y][x] = in[(top + y) * columns + left + x];
    __syncthreads();
    for (int y = threadIdx.y; y < TILE; y += TILE_ROWS)
        if (left + y < columns && top + x < rows) out[(left + y) * rows + top + x] = tile[x][y];
}
static void tiles_transpose_a_matrix() {
    int rows = 70, columns = 45;
    int *out = device<int>((size_t)(rows * columns));
    start(nullptr, transpose, dim3(2, 3), dim3(TILE, TILE_ROWS), 0, out,
          device(counting(rows * columns)), rows, columns);
    std::vector<int> got = host(out, (size_t)(rows * columns));
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) EXPECT(got[(size_t)(j * rows + i)] == i * columns + j);
}

static __global__ void places(int *out) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = block * threads + thread;
}
static void every_thread_of_a_grid_runs_once() {
    int n = 2 * 3 * 5 * 7 * 3 * 2;
    int *out = device<int>((size_t)n);
    start(nullptr, places, dim3(2, 3, 5), dim3(7, 3, 2), 0, out);
    EXPECT(host(out, (size_t)n) == counting(n));
}

static __global__ void count_all(int *counts, unsigned long long *total, float *sum,
                                 const int *keys, int n) {
    __shared__ int here[16];
    if (threadIdx.x < 16) here[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&here[keys[i]], 1);
        atomicMax(total + 1, (unsigned long long)keys[i]);
        atomicAdd(sum, 1.0f); // exact: a small count
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        atomicAdd(&counts[threadIdx.x], here[threadIdx.x]);
        atomicAdd(total, (unsigned long long)here[threadIdx.x]);
    }
    __threadfence();
    if (threadIdx.x == 0) atomicCAS(counts + 16, (int)blockIdx.x, (int)blockIdx.x + 1);
}
static void atomics_count() {
    int n = 5000;
    std::vector<int> keys((size_t)n), want(16, 0);
    for (int i = 0; i < n; i++) want[(size_t)(keys[(size_t)i] = i * i % 13)]++;
    int *counts = device(std::vector<int>(17, 0));
    unsigned long long *total = device(std::vector<unsigned long long>(2, 0));
    float *sum = device(std::vector<float>(1, 0.0f));
    start(nullptr, count_all, dim3(9), dim3(64), 0, counts, total, sum, device(keys), n);
    std::vector<int> got = host(counts, 16);
    EXPECT(got == want);
    EXPECT(host(total, 2)[0] == (unsigned long long)n && host(total, 2)[1] == 12);
    EXPECT(host(sum, 1)[0] == (float)n);
}

// Stands at blocks before 1 in memory: exact values of bits and conversions.
static __global__ void bits(unsigned *out) {
    out[0] = (unsigned)__popc(0xf0f0u) + 100 * (unsigned)__clz(1) + 10000 * (unsigned)__ffs(8);
    out[1] = __brev(0x80000001u) ^ __umulhi(0x80000000u, 6);
    out[2] = __float_as_uint(1.0f) ^ __float_as_uint(__uint_as_float(0x7fc00000u));
    out[3] = __byte_perm(0x33221100u, 0x77665544u, 0x7610u);
    out[4] = (unsigned)min(3, 5) + 10u * max(2u, 7u) + 100u * (unsigned)max(1.5f, 3.0f);
    out[5] = (unsigned)__float2int_rn(2.5f) + 10u * (unsigned)__float2int_rz(2.9f);
    out[6] = (unsigned)(rsqrtf(0.25f) + 10.0f * __saturatef(7.0f) + 100.0f * __fdividef(6, 2));
    out[7] = __funnelshift_l(0x80000000u, 1, 1) + (unsigned)__ldg(out + 4);
}
static void bits_and_conversions() {
    unsigned *out = device<unsigned>(8);
    start(nullptr, bits, dim3(1), dim3(1), 0, out);
    std::vector<unsigned> want = {
        8 + 3100 + 40000, 0x80000001u ^ 3, 0x3f800000u ^ 0x7fc00000u, 0x77661100u, 373, 2 + 20,
        2 + 10 + 300,     3 + 373};
    EXPECT(host(out, 8) == want);
}

// c (16, 8) = a (16, K) b (8, K)^T, one warp: a through ldmatrix, b through either form of it, K in
// steps of 16 that cp.async brings in two stages ahead.
template <bool transposed>
static __global__ void multiply(float *c, const __nv_bfloat16 *a, const __nv_bfloat16 *b, int K) {
    __shared__ __align__(16) __nv_bfloat16 tile_a[3][16][24], tile_b[3][16][24];
    int lane = threadIdx.x, steps = K / 16;
    auto fetch = [&](int step) {
        if (step < steps) {
            int s = step % 3, row = lane / 2, column = lane % 2 * 8;
            cp_async_16(&tile_a[s][row][column], a + row * K + step * 16 + column, true);
            if (transposed) // b is (K, 8)
                cp_async_16(&tile_b[s][row][column],
                            column == 0 ? b + (step * 16 + row) * 8 : nullptr, column == 0);
            else
                cp_async_16(&tile_b[s][row][column],
                            row < 8 ? b + row * K + step * 16 + column : nullptr, row < 8);
        }
        cp_async_commit();
    };
    float d[4] = {0, 0, 0, 0};
    fetch(0);
    fetch(1);
    for (int step = 0; step < steps; step++) {
        fetch(step + 2);
        cp_async_wait<2>();
        __syncwarp();
        int s = step % 3;
        uint32_t ra[4], rb[4];
        ldmatrix_x4(ra, &tile_a[s][lane % 16][lane / 16 * 8]);
        if (transposed)
            ldmatrix_x4_transposed(rb, &tile_b[s][lane % 16][lane / 16 * 8]);
        else
            ldmatrix_x4(rb, &tile_b[s][lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
        mma_bf16_m16n8k16(d, ra, rb);
        __syncwarp();
    }
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}
static void tensor_cores_multiply() {
    int K = 16 * 7;
    std::vector<__nv_bfloat16> a((size_t)(16 * K)), b((size_t)(8 * K)), b_rows((size_t)(8 * K));
    for (size_t i = 0; i < a.size(); i++) a[i] = __float2bfloat16(sinf((float)i));
    for (int j = 0; j < 8; j++)
        for (int k = 0; k < K; k++)
            b[(size_t)(j * K + k)] = b_rows[(size_t)(k * 8 + j)] =
                __float2bfloat16(cosf((float)(3 * j + 5 * k)));
    float *c = device<float>(128), *c2 = device<float>(128);
    start(nullptr, multiply<false>, dim3(1), dim3(32), 0, c, device(a), device(b), K);
    start(nullptr, multiply<true>, dim3(1), dim3(32), 0, c2, device(a), device(b_rows), K);
    std::vector<float> got = host(c, 128), got2 = host(c2, 128);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            double want = 0;
            for (int k = 0; k < K; k++)
                want += (double)__bfloat162float(a[(size_t)(i * K + k)]) *
                        (double)__bfloat162float(b[(size_t)(j * K + k)]);
            // K products of size at most 1, exact in f32, added with K roundings of sums of at most
            // K: K K 2^-24.
            double tolerance = (double)K * K * ldexp(1, -24);
            EXPECT(fabs(got[(size_t)(i * 8 + j)] - want) <= tolerance);
            EXPECT(got[(size_t)(i * 8 + j)] == got2[(size_t)(i * 8 + j)]);
        }
}

// The last block to come adds what all have written, as in a reduction with one launch.
static __global__ void last_block_adds(int *out, int *parts, unsigned *done) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = blockIdx.x;
        __threadfence();
        last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last || threadIdx.x != 0) return;
    int total = 0;
    for (unsigned i = 0; i < gridDim.x; i++) total += parts[i];
    *out = total;
}
static void the_last_block_knows_that_it_is() {
    int *out = device<int>(1), *parts = device<int>(50);
    unsigned *done = device(std::vector<unsigned>(1, 0));
    for (int i = 0; i < 2; i++)
        start(nullptr, last_block_adds, dim3(50), dim3(33), 0, out, parts, done);
    EXPECT(host(out, 1)[0] == 49 * 50 / 2 && host(done, 1)[0] == 0);
}

static __global__ void many_switches(unsigned *out, int n) {
    unsigned value = threadIdx.x;
    for (int i = 0; i < n; i++) value += __shfl_xor_sync(ALL, value, 1 + i % 31);
    out[threadIdx.x] = value;
}
static void report_speed() {
    struct timespec begin, end;
    int n = 5000;
    unsigned *out = device<unsigned>(256);
    start(nullptr, many_switches, dim3(1), dim3(256), 0, out, n);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    SUCCEED(cudaDeviceSynchronize());
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds =
        (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    printf("%.1f million switches of threads a second\n", 256e-6 * n / seconds);
}

int main() {
    sums_of_rows_are_exact();
    scan_of_a_block_is_exact();
    shuffles_move_what_cuda_says();
    votes_count_the_lanes_there_are();
    tiles_transpose_a_matrix();
    every_thread_of_a_grid_runs_once();
    atomics_count();
    bits_and_conversions();
    tensor_cores_multiply();
    the_last_block_knows_that_it_is();
    report_speed();
    return 0;
}
