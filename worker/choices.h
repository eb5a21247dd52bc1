// Multiple choice by log-likelihood, as the tasks of lm-evaluation-harness have it: the choice that
// the model finds likeliest after the context is its answer.
//
// A file of JSON lines, each a question: {"context": TEXT, "choices": [TEXT, …], "gold": NUMBER},
// gold counted from 0. Context and choice are one text, whatever white space stands between them
// belongs to either; white space at the context's end is scored with the choice (its tokens may
// join them). A text longer than train.context loses its beginning; one without a context begins
// as a generated text does.
#ifndef MOETRAIN_WORKER_CHOICES_H
#define MOETRAIN_WORKER_CHOICES_H

#include "model/model.h"
#include "worker/data/batch.h"
#include "worker/json_rows.h"

typedef struct Question {
    int64_t first, count; // rows of its choices
    int64_t gold;
} Question;

// Context and choice, and what the model is asked.
typedef struct ChoiceRow {
    const char *context, *choice;
} ChoiceRow;

typedef struct Questions {
    const char *path;
    JsonRows lines; // that own the texts
    Question *questions;
    ChoiceRow *rows;
    int64_t count, row_count;
    int64_t longest; // bytes of a row
} Questions;

// Reads the file; rank 0 does, the others get its bytes. False with exit 3, the line and the fix,
// the same on every rank. Needs questions_free. Collective over all ranks.
bool questions_read(Questions *q, const char *path, Error *err);
void questions_free(Questions *q); // legal on a zeroed one

typedef struct ChoicesResult {
    double accuracy;           // share of questions whose gold choice is the likeliest
    double accuracy_by_length; // … by log-likelihood over the choice's characters (acc_norm)
    double seconds;
    int signal; // that interrupted it, and the figures mean nothing; 0: it is complete
} ChoicesResult;

// Scores all of them. The model is one for evaluation, batch as opened for it. With `json` rank 0
// prints a line for each question: question, logprobs of its choices in nats, choice,
// choice_by_length, gold. The figures are the same bits for any batch and ranks. False with exit 3
// for a text that the vocabulary lacks. Collective over all ranks.
bool questions_answer(const Questions *q, Model *model, BatchBuffer *batch,
                      const Vocabulary *vocabulary, bool json, ChoicesResult *result, Error *err);

#endif
