#include "worker/run/rank_places.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/clock.h"

static void find_address(char address[PLACE_ADDRESS_BYTES]) {
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0) return;
    for (const struct ifaddrs *one = all; one && !address[0]; one = one->ifa_next) {
        bool usable = one->ifa_addr && one->ifa_addr->sa_family == AF_INET &&
                      (one->ifa_flags & IFF_UP) && !(one->ifa_flags & IFF_LOOPBACK);
        if (!usable) continue;
        struct sockaddr_in found;
        memcpy(&found, one->ifa_addr, sizeof found);
        inet_ntop(AF_INET, &found.sin_addr, address, PLACE_ADDRESS_BYTES);
    }
    freeifaddrs(all);
}

const RankPlace *rank_places(void) {
    static RankPlace *places;
    if (places) return places;
    RankPlace own = {.host = "?", .pid = (int64_t)getpid()};
    int ranks = comm_size();
    gethostname(own.host, sizeof own.host - 1);
    find_address(own.address);
    places = calloc((size_t)ranks, sizeof *places);
    CHECK_MEMORY(places, "no memory for the places of %d ranks", ranks);
    const int64_t bytes = sizeof own;
    all_gather(comm_world(), tensor_1d(places, U8, ranks * bytes), tensor_1d(&own, U8, bytes),
               TRAFFIC_OTHER);
    return places;
}

// ---- reaching a host ----------------------------------------------------------------------------

enum { UNUSED_PORT = 9, ANSWER_MILLISECONDS = 1500 };

// A connection on its way to the host, or -1 and *answers.
static int knock(const char *address, bool *answers) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(UNUSED_PORT)};
    int fd = -1;
    *answers = true; // whoever cannot be asked is not accused
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) return -1;
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
    if (errno == EINPROGRESS) return fd;
    *answers = errno == ECONNREFUSED;
    close(fd);
    return -1;
}

static bool has_answered(int fd) {
    int cause = 0;
    socklen_t bytes = sizeof cause;
    bool known = getsockopt(fd, SOL_SOCKET, SO_ERROR, &cause, &bytes) == 0;
    return known && (cause == 0 || cause == ECONNREFUSED);
}

void rank_places_reach(const RankPlace *places, int ranks, int own, bool *cut_off) {
    struct pollfd *asked = calloc((size_t)ranks, sizeof *asked);
    if (!asked) return;
    for (int rank = 0; rank < ranks; rank++) {
        bool same = rank > 0 && strcmp(places[rank].host, places[rank - 1].host) == 0, answers;
        bool here = strcmp(places[rank].host, places[own].host) == 0;
        asked[rank] = (struct pollfd){.fd = -1, .events = POLLOUT};
        cut_off[rank] = false;
        if (same || here) continue;
        asked[rank].fd = knock(places[rank].address, &answers);
        cut_off[rank] = asked[rank].fd >= 0 || !answers; // until it does
    }
    double end = clock_seconds() + 1e-3 * ANSWER_MILLISECONDS;
    for (double left; (left = end - clock_seconds()) > 0;) {
        if (poll(asked, (nfds_t)ranks, (int)(1e3 * left) + 1) <= 0) continue;
        bool waiting = false;
        for (int rank = 0; rank < ranks; rank++) {
            if (asked[rank].fd >= 0 && asked[rank].revents) {
                cut_off[rank] = !has_answered(asked[rank].fd);
                close(asked[rank].fd);
                asked[rank].fd = -1;
            }
            waiting = waiting || asked[rank].fd >= 0;
        }
        if (!waiting) break;
    }
    for (int rank = 0; rank < ranks; rank++) {
        if (asked[rank].fd >= 0) close(asked[rank].fd);
        if (rank > 0 && strcmp(places[rank].host, places[rank - 1].host) == 0)
            cut_off[rank] = cut_off[rank - 1];
    }
    free(asked);
}
