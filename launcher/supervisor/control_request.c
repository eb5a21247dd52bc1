#include "launcher/supervisor/control_request.h"

#include <stdio.h>
#include <string.h>

#include "worker/run/run_requests.h"

static bool is_live_key(const char *word) {
    for (const char *const *key = LIVE_KEYS; *key; key++)
        if (strcmp(*key, word) == 0) return true;
    return false;
}

static bool refuse_key(const char *word, Error *err) {
    char list[256] = "";
    for (const char *const *key = LIVE_KEYS; *key; key++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", *key);
    }
    return error_set(err, EXIT_CONFIG,
                     "'%.60s' cannot be changed while the run is alive; these can: %s", word, list);
}

// Words are separated by one blank, and are letters, digits, and "._+-".
static bool next_word(const char **line, const char *end, char word[CONTROL_WORD_BYTES]) {
    size_t length = 0;
    for (; *line < end && **line != ' '; (*line)++) {
        char c = **line;
        bool legal = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c && strchr("._+-", c));
        if (!legal || length == CONTROL_WORD_BYTES - 1) return false;
        word[length++] = c;
    }
    word[length] = 0;
    if (*line < end) (*line)++;
    return length > 0;
}

bool control_request_parse(const char *line, size_t bytes, ControlRequest *request, Error *err) {
    static const char *const names[] = {[CONTROL_STATUS] = "status",
                                        [CONTROL_CHECKPOINT] = "checkpoint-now",
                                        [CONTROL_STOP] = "stop",
                                        [CONTROL_SET] = "set"};
    char verb[CONTROL_WORD_BYTES];
    const char *end = line + bytes;
    *request = (ControlRequest){0};
    bool ok = bytes <= CONTROL_LINE_BYTES && next_word(&line, end, verb), known = false;
    for (int i = 0; ok && i <= CONTROL_SET; i++) {
        if (strcmp(verb, names[i]) != 0) continue;
        request->verb = (ControlVerb)i;
        known = true;
    }
    ok = ok && known;
    if (ok && request->verb == CONTROL_SET)
        ok = next_word(&line, end, request->key) && next_word(&line, end, request->value);
    if (!ok || line != end)
        return error_set(err, EXIT_CONFIG,
                         "no request: it must be status, checkpoint-now, stop, or set KEY VALUE");
    if (request->verb == CONTROL_SET && !is_live_key(request->key))
        return refuse_key(request->key, err);
    return true;
}
