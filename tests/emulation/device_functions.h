// CUDA's arithmetic on one thread: atomics, cached loads, bits, conversions and the fast maths
// names, which are as exact here as the C library: tests must not depend on their last bits. Only
// the types that CUDA itself has overloads for.
#ifndef MOETRAIN_TESTS_EMULATION_DEVICE_FUNCTIONS_H
#define MOETRAIN_TESTS_EMULATION_DEVICE_FUNCTIONS_H

// Kernels run on one thread of the host, so that plain reads and writes are atomic. Each returns
// the old value.
#define EMULATION_ATOMIC(name, type, expression)                                                   \
    static inline type name(type *address, type value) {                                           \
        type old = *address;                                                                       \
        *address = (expression);                                                                   \
        return old;                                                                                \
    }
EMULATION_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
EMULATION_ATOMIC(atomicAdd, unsigned, old + value)
EMULATION_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATION_ATOMIC(atomicAdd, float, old + value)
EMULATION_ATOMIC(atomicAdd, double, old + value)
EMULATION_ATOMIC(atomicAdd, __nv_bfloat16,
                 __float2bfloat16_rn(__bfloat162float(old) + __bfloat162float(value)))
EMULATION_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))
EMULATION_ATOMIC(atomicSub, unsigned, old - value)
EMULATION_ATOMIC(atomicExch, int, value)
EMULATION_ATOMIC(atomicExch, unsigned, value)
EMULATION_ATOMIC(atomicExch, unsigned long long, value)
EMULATION_ATOMIC(atomicExch, float, value)
EMULATION_ATOMIC(atomicMin, int, value < old ? value : old)
EMULATION_ATOMIC(atomicMin, unsigned, value < old ? value : old)
EMULATION_ATOMIC(atomicMin, long long, value < old ? value : old)
EMULATION_ATOMIC(atomicMin, unsigned long long, value < old ? value : old)
EMULATION_ATOMIC(atomicMax, int, value > old ? value : old)
EMULATION_ATOMIC(atomicMax, unsigned, value > old ? value : old)
EMULATION_ATOMIC(atomicMax, long long, value > old ? value : old)
EMULATION_ATOMIC(atomicMax, unsigned long long, value > old ? value : old)
EMULATION_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMULATION_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
EMULATION_ATOMIC(atomicAnd, int, old &value)
EMULATION_ATOMIC(atomicAnd, unsigned, old &value)
EMULATION_ATOMIC(atomicAnd, unsigned long long, old &value)
EMULATION_ATOMIC(atomicOr, int, old | value)
EMULATION_ATOMIC(atomicOr, unsigned, old | value)
EMULATION_ATOMIC(atomicOr, unsigned long long, old | value)
EMULATION_ATOMIC(atomicXor, int, old ^ value)
EMULATION_ATOMIC(atomicXor, unsigned, old ^ value)
EMULATION_ATOMIC(atomicXor, unsigned long long, old ^ value)
#undef EMULATION_ATOMIC
#define EMULATION_COMPARE_AND_SWAP(type)                                                           \
    static inline type atomicCAS(type *address, type compare, type value) {                        \
        type old = *address;                                                                       \
        if (old == compare) *address = value;                                                      \
        return old;                                                                                \
    }
EMULATION_COMPARE_AND_SWAP(int)
EMULATION_COMPARE_AND_SWAP(unsigned)
EMULATION_COMPARE_AND_SWAP(unsigned long long)
EMULATION_COMPARE_AND_SWAP(unsigned short)
#undef EMULATION_COMPARE_AND_SWAP

static inline void __threadfence() {
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence_block() {
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
[[noreturn]] static inline void __trap() {
    emulation::die("__trap()");
}

#define EMULATION_LOAD(name)                                                                       \
    template <typename T> static inline T name(const T *address) {                                 \
        return *address;                                                                           \
    }
EMULATION_LOAD(__ldg)
EMULATION_LOAD(__ldca)
EMULATION_LOAD(__ldcg)
EMULATION_LOAD(__ldcs)
EMULATION_LOAD(__ldcv)
EMULATION_LOAD(__ldlu)
#undef EMULATION_LOAD
#define EMULATION_STORE(name)                                                                      \
    template <typename T> static inline void name(T *address, std::type_identity_t<T> value) {     \
        *address = value;                                                                          \
    }
EMULATION_STORE(__stwb)
EMULATION_STORE(__stcg)
EMULATION_STORE(__stcs)
EMULATION_STORE(__stwt)
#undef EMULATION_STORE

// glibc declares these names itself, hence macros.
#define __expf(x)    expf(x)
#define __exp10f(x)  exp10f(x)
#define __logf(x)    logf(x)
#define __log2f(x)   log2f(x)
#define __log10f(x)  log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x)    sinf(x)
#define __cosf(x)    cosf(x)
#define __tanf(x)    tanf(x)
static inline float rsqrtf(float x) {
    return (float)(1.0 / sqrt((double)x)); // the correctly rounded result but for double rounding
}
static inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}
static inline float __frsqrt_rn(float x) {
    return rsqrtf(x);
}
static inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
static inline float __frcp_rn(float x) {
    return 1.0f / x;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline double __dadd_rn(double a, double b) {
    return a + b;
}
static inline double __dmul_rn(double a, double b) {
    return a * b;
}
static inline float __saturatef(float x) {
    return x > 1.0f ? 1.0f : x > 0.0f ? x : 0.0f; // NaN gives 0, as on the GPU
}
static inline float fdividef(float a, float b) {
    return a / b;
}

template <typename To, typename From> static inline To emulation_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) {
    return emulation_bits<unsigned>(x);
}
static inline int __float_as_int(float x) {
    return emulation_bits<int>(x);
}
static inline float __uint_as_float(unsigned x) {
    return emulation_bits<float>(x);
}
static inline float __int_as_float(int x) {
    return emulation_bits<float>(x);
}
static inline long long __double_as_longlong(double x) {
    return emulation_bits<long long>(x);
}
static inline double __longlong_as_double(long long x) {
    return emulation_bits<double>(x);
}

// Conversions to integers clamp, and NaN gives 0, as on the GPU; in C++ both are undefined.
template <typename T> static inline T emulation_clamped(double x) {
    if (isnan(x)) return 0;
    if (x <= (double)std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
    if (x >= (double)std::numeric_limits<T>::max()) return std::numeric_limits<T>::max();
    return (T)x;
}
static inline int __float2int_rn(float x) {
    return emulation_clamped<int>(rintf(x));
}
static inline int __float2int_rz(float x) {
    return emulation_clamped<int>(truncf(x));
}
static inline int __float2int_rd(float x) {
    return emulation_clamped<int>(floorf(x));
}
static inline int __float2int_ru(float x) {
    return emulation_clamped<int>(ceilf(x));
}
static inline unsigned __float2uint_rn(float x) {
    return emulation_clamped<unsigned>(rintf(x));
}
static inline unsigned __float2uint_rz(float x) {
    return emulation_clamped<unsigned>(truncf(x));
}
static inline long long __float2ll_rn(float x) {
    return emulation_clamped<long long>(rintf(x));
}
static inline long long __double2ll_rn(double x) {
    return emulation_clamped<long long>(rint(x));
}
static inline float __int2float_rn(int x) {
    return (float)x;
}
static inline float __uint2float_rn(unsigned x) {
    return (float)x;
}
static inline float __ll2float_rn(long long x) {
    return (float)x;
}
static inline float __double2float_rn(double x) {
    return (float)x;
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x) {
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
static inline unsigned __brev(unsigned x) {
    x = __builtin_bswap32(x);
    x = (x & 0x0f0f0f0fu) << 4 | (x >> 4 & 0x0f0f0f0fu);
    x = (x & 0x33333333u) << 2 | (x >> 2 & 0x33333333u);
    return (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
}
static inline unsigned long long __brevll(unsigned long long x) {
    return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
static inline int __mulhi(int a, int b) {
    return (int)((long long)a * b >> 32);
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> 4 * i & 15;
        unsigned byte = (unsigned)(bytes >> 8 * (s & 7)) & 0xff;
        if (s & 8) byte = byte & 0x80 ? 0xff : 0; // replicates the sign
        result |= byte << 8 * i;
    }
    return result;
}

// CUDA's min and max: both arguments of one type, or int with unsigned, or f32 with f64.
template <typename T>
requires std::is_integral_v<T>
static inline T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
requires std::is_integral_v<T>
static inline T max(T a, T b) {
    return b > a ? b : a;
}
template <typename A, typename B>
requires(std::is_integral_v<A> &&std::is_integral_v<B> && !std::is_same_v<A, B> &&
         sizeof(A) == sizeof(B)) static inline std::make_unsigned_t<A> min(A a, B b) {
    return min((std::make_unsigned_t<A>)a, (std::make_unsigned_t<A>)b);
}
template <typename A, typename B>
requires(std::is_integral_v<A> &&std::is_integral_v<B> && !std::is_same_v<A, B> &&
         sizeof(A) == sizeof(B)) static inline std::make_unsigned_t<A> max(A a, B b) {
    return max((std::make_unsigned_t<A>)a, (std::make_unsigned_t<A>)b);
}
static inline float min(float a, float b) {
    return fminf(a, b);
}
static inline float max(float a, float b) {
    return fmaxf(a, b);
}
static inline double min(double a, double b) {
    return fmin(a, b);
}
static inline double max(double a, double b) {
    return fmax(a, b);
}

#endif
