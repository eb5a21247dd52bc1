// Arenas: measuring and placing agree, alignment, marks, and the end when one is full.
#include "kernels/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef __SANITIZE_ADDRESS__
enum { RED_ZONES = true };
#else
enum { RED_ZONES = false };
#endif

static jmp_buf after_death;

static void survive(int exit_code) {
    (void)exit_code;
    longjmp(after_death, 1);
}

typedef struct Layout {
    Tensor a, b, c;
} Layout;

// Any layout function: b lives only until the release.
static Layout lay_out(Arena *arena) {
    Layout l;
    l.a = arena_1d(arena, F32, 5);
    size_t mark = arena_mark(arena);
    l.b = arena_3d(arena, F64, 3, 1, 70);
    arena_release(arena, mark);
    l.c = arena_2d(arena, U8, 1, 1);
    return l;
}

static void measuring_gives_no_memory_and_the_exact_peak(void **state) {
    (void)state;
    Arena arena;
    arena_measure(&arena, "test", NULL);
    Layout l = lay_out(&arena);
    assert_null(l.a.data);
    assert_null(l.c.data);
    size_t measured = arena.peak_bytes;
    arena_allocate(&arena);
    assert_int_equal(arena.used_bytes, 0);
    lay_out(&arena);
    assert_int_equal(arena.peak_bytes, measured);
    arena_free(&arena);
}

static void tensors_are_aligned_apart_and_zeroed(void **state) {
    (void)state;
    Arena arena;
    arena_measure(&arena, "test", NULL);
    lay_out(&arena);
    arena_allocate(&arena);
    Layout l = lay_out(&arena);
    assert_int_equal((uintptr_t)l.a.data % 64, 0);
    assert_int_equal((uintptr_t)l.c.data % 64, 0);
    assert_true((char *)l.c.data >= (char *)l.a.data + tensor_bytes(l.a));
    // Released memory is used again, unless red zones are to stay where they are.
    assert_true((l.c.data == l.b.data) == !RED_ZONES);
    for (int i = 0; i < 5; i++) assert_true(tensor_f32(l.a)[i] == 0.0f);
    arena_free(&arena);
    assert_null(arena.base);
    arena_free(&arena); // legal twice
}

static void an_empty_tensor_is_legal(void **state) {
    (void)state;
    Arena arena;
    arena_measure(&arena, "test", NULL);
    arena_2d(&arena, F32, 0, 8);
    arena_allocate(&arena);
    assert_non_null(arena_2d(&arena, F32, 0, 8).data);
    arena_free(&arena);
}

typedef struct Layers {
    Tensor first, second, borrowed;
} Layers;

// Two layers whose scratch lies in one place, and a model that borrows the arena.
static Layers lay_out_layers(Arena *arena, Arena *borrower) {
    Layers l;
    size_t mark = arena_mark(arena);
    l.first = arena_1d(arena, F32, 16);
    arena_release(arena, mark);
    l.second = arena_1d(arena, F32, 300);
    arena_release(arena, mark);
    if (arena->base) arena_share(borrower, arena);
    l.borrowed = arena_1d(borrower, F32, 300);
    return l;
}

static void an_overrun_into_a_neighbour_is_caught(void **state) {
    (void)state;
    if (!RED_ZONES) skip();
    Arena arena, borrower;
    arena_measure(&arena, "owner", NULL);
    arena_measure(&borrower, "borrower", NULL);
    lay_out_layers(&arena, &borrower);
    arena_allocate(&arena);
    Layers l = lay_out_layers(&arena, &borrower);
    for (int64_t n = 0; n < 300; n++) tensor_f32(l.second)[n] = tensor_f32(l.borrowed)[n] = 1;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO); // the sanitizer's words
        *(volatile float *)(tensor_f32(l.first) + 16) = 1;
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    arena_free(&borrower);
    arena_free(&arena);
}

static void a_full_arena_is_fatal(void **state) {
    (void)state;
    Arena arena;
    arena_measure(&arena, "test", NULL);
    arena_1d(&arena, F32, 16);
    arena_allocate(&arena);
    arena_1d(&arena, F32, 16);
    die_hook = survive;
    if (setjmp(after_death) == 0) {
        arena_1d(&arena, F32, 1024);
        fail();
    }
    if (setjmp(after_death) == 0) {
        arena_release(&arena, arena_mark(&arena) + 1);
        fail();
    }
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measuring_gives_no_memory_and_the_exact_peak),
        cmocka_unit_test(tensors_are_aligned_apart_and_zeroed),
        cmocka_unit_test(an_empty_tensor_is_legal),
        cmocka_unit_test(an_overrun_into_a_neighbour_is_caught),
        cmocka_unit_test(a_full_arena_is_fatal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
