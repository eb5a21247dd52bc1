// Any bytes as a line to a supervisor: refused in one line of error, or one of the four requests,
// which written down again is the same line.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/supervisor/control_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz_control: %s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
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
    return 0;
}
