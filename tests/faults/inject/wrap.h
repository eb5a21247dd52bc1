// A function that the linker puts in the place of another: WRAP(type, name, parameters) { … } is
// called wherever the product's object code calls `name`, and calls the real one as
// __real_name. CMakeLists.txt finds the names by this word.
#ifndef MOETRAIN_TESTS_FAULTS_INJECT_WRAP_H
#define MOETRAIN_TESTS_FAULTS_INJECT_WRAP_H

#define WRAP(type, name, ...)                                                                      \
    type __real_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__)

#endif
