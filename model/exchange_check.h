// What is sent is what arrives: rows and checksums of every exchange of tokens between ranks, added
// up on both sides. Over all ranks they must cancel out, which is looked at when the step's
// statistics are summed, before the update, and costs no message of its own. Only when they do not
// are the sides compared peer by peer, to name the ranks, the layer and the direction.
//
// It sees what lies between the sender's buffer and the receiver's: the MPI library with its
// fragments in shared memory or on a network (TCP has 16 bits of checksum), a buffer that is
// changed while a message is on its way, a count that does not fit. Rows that stay on their rank do
// not pass there and are left out. On a GPU links have checksums of their own (CRC of NVLink and
// InfiniBand), and the sums would be another pass over memory for every row: off unless asked for.
#ifndef MOETRAIN_MODEL_EXCHANGE_CHECK_H
#define MOETRAIN_MODEL_EXCHANGE_CHECK_H

#include "model/statistics.h"

// The exchanges of a layer in a micro-batch.
typedef enum ExchangeWay {
    DISPATCH_TOKENS,
    COMBINE_OUTPUTS,
    DISPATCH_GRADIENTS, // of outputs, backward
    COMBINE_GRADIENTS,  // of inputs, backward
    EXCHANGE_WAYS
} ExchangeWay;

typedef enum ExchangeSide { SIDE_SENT, SIDE_RECEIVED, EXCHANGE_SIDES } ExchangeSide;

typedef struct ExchangeCheck {
    bool on;
    int column; // of the statistics: what must be zero over all ranks
    // Of a step, by (layer, ExchangeWay, ExchangeSide, peer): (·, 2) i64 checksums, their mirror on
    // the host, and (·) i64 rows there.
    Tensor sums, host_sums, rows;
    Tensor remainder; // (EXCHANGE_REMAINDER) i64 on the host
} ExchangeCheck;
enum { EXCHANGE_REMAINDER = 3 };             // rows, both checksums
#define EXCHANGE_COLUMN "exchange_remainder" // of statistics, where exchanges are checked

// For a model that trains on several ranks of an expert-parallel group and whose split wants it.
void exchange_check_layout(ExchangeCheck *check, Work *work, Statistics *stats, Arena *activations,
                           ExchangeChecks wanted);
// A step begins.
void exchange_check_clear(ExchangeCheck *check, Work *work);
// Rows leave this rank, before they do, or have arrived: runs by peer. Does nothing when off.
void exchange_check_add(Work *work, int64_t layer, ExchangeWay way, ExchangeSide side, Tensor rows,
                        RowRuns runs);
// After the step's last micro-batch: brings this rank's remainder into the statistics.
void exchange_check_add_up(ExchangeCheck *check, Work *work, const Statistics *stats);
// After statistics_reduce. False with exit 7, the same message on every rank, where a message was
// not received as it was sent. Collective over all ranks.
bool exchange_check_verify(const ExchangeCheck *check, Work *work, const Statistics *stats,
                           Error *err);

#endif
