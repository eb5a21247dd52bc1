# How every test is added: a name FOLDER.FILE or FOLDER.FILE.VARIANT, a label that is its folder, a time after which it
# hangs, and the environment below. `ctest --preset release -R kernels` needs nothing exported.

# Debian's python3-h5py serves Debian's python3, whatever else stands first in PATH.
find_program(MOETRAIN_PYTHON3 python3 HINTS /usr/bin)
set(MOETRAIN_MPIRUN ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none)

# Few cores serve many ranks and their threads. Open MPI's plugins leave memory behind: leaks of our own parsers are found
# by the fuzzers, which say so themselves.
set(MOETRAIN_TEST_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1)

# What `tests/run quick` runs (preset and label quick): all that computes, and a few tests of equality over ranks and of what
# a user types. Two cores need less than three minutes, the build included.
set(MOETRAIN_QUICK
  "^(unit|kernels|gradients|reference|structure)\\."
  "^cli\\.test_(command_line|config_errors|plan|training)$"
  "^parallel\\.(check_.*|checkpoint_h5py)"
  "^parallel\\.invariance\\.(dropless|switch_position|padded_routing_by_sequence|layers_of_different_kinds_and_sizes)$")

# moetrain_test(FILE [VARIANT word] [RANKS n] COMMAND program-or-script [argument ...]
#               [TIMEOUT seconds] [PROCESSORS n] [WORKING_DIRECTORY folder] [LABELS more ...] [ENVIRONMENT A=B ...])
# RANKS: under mpirun, and the name ends in .npN. COMMAND: a target, or a script of this folder, which finds its interpreter.
# PROCESSORS: 1 unless given, also for ranks: they mostly wait for their start, and two such tests at a time are faster.
# TIMEOUT: what only a hang takes; 300 unless given, for scripts, which drive many runs, 900. Exit code 77 is a skipped
# test, except on the emulated GPU, where nothing is missing.
function(moetrain_test file)
  cmake_parse_arguments(PARSE_ARGV 1 TEST "" "VARIANT;RANKS;TIMEOUT;PROCESSORS;WORKING_DIRECTORY"
    "COMMAND;LABELS;ENVIRONMENT")
  if(TEST_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "moetrain_test(${file}): what is ${TEST_UNPARSED_ARGUMENTS}?")
  endif()
  cmake_path(GET CMAKE_CURRENT_SOURCE_DIR FILENAME folder)
  set(name ${folder}.${file})
  set(timeout 300)
  if(TEST_VARIANT)
    string(APPEND name .${TEST_VARIANT})
  endif()

  list(POP_FRONT TEST_COMMAND program)
  if(TARGET ${program})
    set(command $<TARGET_FILE:${program}>)
  else()
    cmake_path(ABSOLUTE_PATH program BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} OUTPUT_VARIABLE command)
    if(program MATCHES "\\.py$")
      set(command ${MOETRAIN_PYTHON3} -B ${command})
    endif()
    set(timeout 900)
  endif()
  if(TEST_RANKS)
    string(APPEND name .np${TEST_RANKS})
    set(command ${MOETRAIN_MPIRUN} -np ${TEST_RANKS} ${command})
  endif()
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT ${timeout})
  endif()
  if(NOT TEST_PROCESSORS)
    set(TEST_PROCESSORS 1)
  endif()
  if(NOT TEST_WORKING_DIRECTORY)
    set(TEST_WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  endif()
  foreach(pattern IN LISTS MOETRAIN_QUICK)
    if(name MATCHES "${pattern}")
      list(APPEND TEST_LABELS quick)
    endif()
  endforeach()

  add_test(NAME ${name} COMMAND ${command} ${TEST_COMMAND} WORKING_DIRECTORY ${TEST_WORKING_DIRECTORY})
  set_tests_properties(${name} PROPERTIES LABELS "${folder};${TEST_LABELS}" TIMEOUT ${TEST_TIMEOUT}
    PROCESSORS ${TEST_PROCESSORS} ENVIRONMENT "${MOETRAIN_TEST_ENVIRONMENT};${TEST_ENVIRONMENT}")
  if(NOT MOETRAIN_EMULATE)
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
  endif()
endfunction()
