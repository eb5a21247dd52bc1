#include "model/dropout.h"

void drop_tokens(const Work *work, Tensor out, Tensor x, double rate, RngPurpose purpose,
                 int64_t number) {
    dropout(work->dev, out, x,
            (Dropout){.rate = rate,
                      .stream = work_stream(work, purpose, number),
                      .first_row = work->step.first_token});
}
