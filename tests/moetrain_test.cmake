# How every test is added: a name FOLDER.FILE or FOLDER.FILE.VARIANT, a label that is its folder, a time after which it
# hangs, and the environment below. `ctest --preset release -R kernels` needs nothing exported.

# Debian's python3-h5py serves Debian's python3, whatever else stands first in PATH.
find_program(MOETRAIN_PYTHON3 python3 HINTS /usr/bin)
set(MOETRAIN_MPIRUN ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none)

# Few cores serve many ranks and their threads. All ranks are on this machine: without ob1 Open MPI looks for cards of other
# networks, for which PSM's library measures core 0, which takes long where the core is busy. Nor does hwloc look for cards at
# each start, of a rank and of mpirun, a quarter of whose time that takes. Open MPI's plugins leave memory behind: leaks of our
# own parsers are found by the fuzzers, which say so themselves.
set(MOETRAIN_TEST_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_pml=ob1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  OMPI_MCA_odls_base_sigkill_timeout=0 # tests/parallel/runs.py
  HWLOC_COMPONENTS=-pci,-linuxio
  OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
  ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1)

# Ranks that wait sleep. Whatever a test runs builds this first.
add_library(moetrain_yield MODULE ${CMAKE_CURRENT_LIST_DIR}/yield_by_sleeping.c)
target_compile_definitions(moetrain_yield PRIVATE _GNU_SOURCE)
add_dependencies(moetrain_layers moetrain_yield)
list(APPEND MOETRAIN_TEST_ENVIRONMENT LD_PRELOAD=$<TARGET_FILE:moetrain_yield>)

# What `tests/run quick` runs (preset and label quick): all that computes, and a few tests of equality over ranks and of what
# a user types. Two cores need less than three minutes, the build included.
set(MOETRAIN_QUICK
  "^(unit|kernels|gradients|reference|structure)\\."
  "^cli\\.test_(command_line|config_errors|plan|training)$"
  "^parallel\\.(check_.*|checkpoint_h5py)"
  "^parallel\\.invariance\\.(dropless|switch_position|padded_routing_by_sequence|layers_of_different_kinds_and_sizes)$")

# Seconds of the longest tests, of whichever preset needs most: ctest begins with them, so that none ends alone.
set(MOETRAIN_LONGEST
  faults.signals_and_stops 80 faults.supervise 75 cluster.slurm 70 faults.disks_and_folders 70 gpu.faults 50
  kernels.check_attention 50 parallel.option_pairs 40 gpu.training 40 faults.live_faults 40 gpu.static 35 parallel.resume 35
  faults.run_lock 35 cli.test_training 35 cli.test_attention_options 30 cli.test_key_limits 30
  cli.test_plan 30 faults.kills_by_phase 30 parallel.routing_record 30 parallel.evaluation 25 faults.time_limits 25
  faults.soak 25 cluster.hosts 25 gradients.check_model_gradients 25 kernels.check_matmul 20 cli.test_branches 25
  cli.test_resume 25 cli.test_compare 20 faults.injected_faults 20 faults.damaged_numbers 20 parallel.ranks_differ 20
  cli.test_bad_input 20 faults.failing_calls 20 parallel.router_bias 15 kernels.check_router 15 structure.test_structure 15
  cli.test_model_options 15 cli.test_integrity 15 cli.test_layer_lists 15 cli.test_status 15
  gradients.check_router_gradients 15 parallel.checkpoint_reshard 10)

# moetrain_test(FILE [VARIANT word] [RANKS n] COMMAND program-or-script [argument ...]
#               [TIMEOUT seconds] [PROCESSORS n] [WORKING_DIRECTORY folder] [LABELS more ...] [ENVIRONMENT A=B ...])
# RANKS: under mpirun, and the name ends in .npN. COMMAND: a target, or a script of this folder, which finds its interpreter.
# PROCESSORS: 1 unless given, also for ranks: they mostly wait for their start, and ctest runs five tests at a time.
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
  list(FIND MOETRAIN_LONGEST ${folder}.${file} place)
  if(NOT place EQUAL -1)
    math(EXPR place "${place} + 1")
    list(GET MOETRAIN_LONGEST ${place} seconds)
    set_tests_properties(${name} PROPERTIES COST ${seconds})
  endif()

  # FOLDER_tests builds what the tests of a folder run.
  if(NOT TARGET ${folder}_tests)
    add_custom_target(${folder}_tests)
  endif()
  string(REGEX MATCHALL "TARGET_FILE:[A-Za-z0-9_]+" programs "${command};${TEST_COMMAND};${TEST_ENVIRONMENT}")
  list(TRANSFORM programs REPLACE "TARGET_FILE:" "")
  if(programs)
    add_dependencies(${folder}_tests ${programs})
  endif()
endfunction()
