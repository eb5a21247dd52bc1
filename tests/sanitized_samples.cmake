# Under sanitizers a start takes twice as long and a computation five to ten times: there a test runs what reaches code that no
# smaller one reaches (parsers, checkpoints, messages, paths after a fault). Each option has trained and generated there in
# parallel.option_pairs and parallel.generation. What is left out compares figures of runs of the same code (bits, memory as
# planned, another layout), which sanitizers cannot see; memory of more than four ranks is used as that of three and four is.
#
# The rows: a test, and its arguments: names of its parts, or what its head says.
set(MOETRAIN_SANITIZED_SAMPLES
  # parallel
  "checkpoint_reshard 1 3" # from three ranks on experts have replicas
  "evaluation evaluate_prints_what_training_logged"
  "placement on_any_ranks_with_what_counts_rows a_run_without_a_history_is_in_order"
  "ranks_differ alike_they_train another_training_text_of_the_same_length another_checkpoint other_words
   data_that_shrinks_on_one_host"
  "resume a_path_can_be_resumed_into_another_folder"
  "router_bias after_each_step_it_is_what_the_loads_make_of_it"
  "routing_record a_resume_goes_on_in_its_file hostile_files_are_refused_before_anything_is_read"
  "step_digests two_configurations_are_trained_until_they_part totals_over_ranks_are_compared
   what_cannot_be_compared_is_one_line"
  # cli
  "test_attention_options -k scores_and_gates -k dropout_is_trains_own"
  "test_branches -k the_same_command_goes_on -k moved_aside_whole -k interrupted_going_back -k weights_alone"
  "test_checkpoint_tokens -k of_characters -k binds_no_reader -k contexts_of_one"
  "test_integrity -k strange_step -k spikes_are_logged"
  "test_model_options -k slots_generate_nothing -k slots_travel -k latent_space -k modules_that_predict"
  "test_plan -k a_padded_exchange -k too_small -k cannot_fit"
  "test_resume -k every_difference_is_told -k list_in_yaml -k diverged_run -k every_key_has_a_kind"
  "test_training -k leaves_what_is_promised -k a_skipped_step -k a_resumed_run -k a_signal_saves -k a_step_that_fails
   -k verbs_on_a_checkpoint"
  # faults: no kills by the clock; and more address space than the limit of failing_calls is taken
  "disks_and_folders a_save_that_fails_is_tried_again_while_training_goes_on no_file_is_written_through_a_link"
  "failing_calls a_save_that_fails_once_costs_nothing no_other_file_stops_training memory_that_is_missing_ends_the_run"
  "live_faults data_that_shrinks_ends_all_ranks_with_exit_code_3
   steps_that_are_not_finite_change_nothing a_damaged_checkpoint_gives_way_to_the_one_before"
  "run_lock a_second_job_is_told_who_trains_here a_killed_holder_is_named_and_replaced_at_once
   a_copy_of_a_folder_in_use_is_free a_holder_that_was_replaced_in_its_sleep_writes_nothing_more"
  "signals_and_stops a_signal_in_the_middle_of_a_matrix_product_is_harmless a_stopped_rank_ends_the_run_with_exit_code_8
   a_signal_during_start_up_is_obeyed_before_the_first_step each_request_is_obeyed_and_usr2_is_not_one"
  "supervise what_is_asked_of_a_run_is_done_by_all_ranks_after_one_step_and_outlives_a_restart
   what_no_restart_mends_ends_at_once")

# The arguments of a test into `sample`: none, which is all of it, in builds without sanitizers.
function(sanitized_sample test sample)
  set(${sample} "" PARENT_SCOPE)
  if(MOETRAIN_SANITIZE)
    foreach(row IN LISTS MOETRAIN_SANITIZED_SAMPLES)
      separate_arguments(words UNIX_COMMAND "${row}")
      list(POP_FRONT words name)
      if(name STREQUAL test)
        set(${sample} ${words} PARENT_SCOPE)
      endif()
    endforeach()
  endif()
endfunction()
