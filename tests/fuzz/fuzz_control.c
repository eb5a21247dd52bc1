// Any bytes as a line to a supervisor: refused in one line of error, or one of the four requests,
// which written down again is the same line. The same as the hosts of `supervise --hosts`, and as
// the name of a checkpoint.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_list.h"
#include "launcher/supervisor/control_request.h"
#include "launcher/supervisor/live_hosts.h"
#include "seeds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static void require(bool condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz_control: %s\n", what);
    abort();
}

static void read_as_words(const uint8_t *data, size_t size) {
    char text[512], name[CHECKPOINT_NAME_BYTES];
    size_t used = size < sizeof text - 1 ? size : sizeof text - 1;
    int slots = 0;
    Error err = {0};
    memcpy(text, data, used);
    text[used] = '\0';
    if (hosts_check(text, &slots, &err)) {
        require(slots >= 1 && text[0], "hosts without slots");
        reached("hosts");
    } else {
        require(err.exit_code == EXIT_CONFIG && err.message[0], "no reason");
    }
    int64_t step = checkpoint_step(text);
    require(step >= -1, "a step before the first");
    if (step < 0) return;
    checkpoint_name(step, name);
    require(strcmp(text + strlen(text) - strlen(name), name) == 0, "another name");
    reached("a checkpoint");
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return seeds_must_reach((const char *const[]){"hosts", "a checkpoint", "status",
                                                  "checkpoint-now", "stop", "set", NULL});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_as_words(data, size);
    static const char *const names[] = {"status", "checkpoint-now", "stop", "set"};
    ControlRequest request;
    Error err = {0};
    char again[CONTROL_LINE_BYTES + 1];
    if (!control_request_parse((const char *)data, size, &request, &err)) {
        require(err.exit_code == EXIT_CONFIG && err.message[0] && !strpbrk(err.message, "\r\n"),
                "not one line of error");
        return 0;
    }
    bool set = request.verb == CONTROL_SET;
    snprintf(again, sizeof again, "%s%s%s%s%s", names[request.verb], set ? " " : "", request.key,
             set ? " " : "", request.value);
    // A blank may stand behind the last word.
    require(size - strlen(again) <= 1 && memcmp(data, again, strlen(again)) == 0,
            "the request is not the line");
    reached(names[request.verb]);
    return 0;
}
