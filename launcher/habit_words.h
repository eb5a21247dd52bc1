// Words of other programs and papers, and the key, verb or choice that they mean here. Only for
// messages (habits.h): none of them is accepted.
#ifndef MOETRAIN_LAUNCHER_HABIT_WORDS_H
#define MOETRAIN_LAUNCHER_HABIT_WORDS_H

typedef struct Habit {
    const char *word, *meant;
} Habit;

// Each ends with a row of NULLs. Upper and lower case are the same.
extern const Habit HABIT_KEYS[];  // '_' also stands for '-'
extern const Habit HABIT_VERBS[]; // "": training, which has no verb
extern const Habit HABIT_WORDS[]; // of choices

#endif
