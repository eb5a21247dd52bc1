#include "comm/process_groups.h"

#include "comm/comm.h"
#include "comm/flight_recorder.h"
#include "comm/group.h"

ProcessGroups process_groups_open(int ep_size, Device *dev) {
    CHECK(ep_size > 0 && comm_size() % ep_size == 0, "%d ranks do not divide into groups of %d",
          comm_size(), ep_size);
    int64_t flight = flight_recorder_begin(comm_world(), "process_groups_open", NULL, 0, ON_HOST);
    Group *world = group_open("world", 0, dev);
    Group *expert_parallel = group_open("expert_parallel", comm_rank() / ep_size, dev);
    Group *expert_replicas = group_open("expert_replicas", comm_rank() % ep_size, dev);
    flight_recorder_end(flight);
    return (ProcessGroups){world, expert_parallel, expert_replicas};
}

void process_groups_close(ProcessGroups *groups) {
    group_close(groups->world);
    group_close(groups->expert_parallel);
    group_close(groups->expert_replicas);
    *groups = (ProcessGroups){0};
}
