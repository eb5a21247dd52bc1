// Everything one run is told: composed of what each layer owns, filled by launcher/config.c, read
// by worker/.
#ifndef MOETRAIN_WORKER_TRAIN_CONFIG_H
#define MOETRAIN_WORKER_TRAIN_CONFIG_H

#include "checkpoint/checkpoint.h"
#include "model/model_config.h"

#define MANY_STEPS 1e12 // the most that a key of steps may be

typedef enum DataFormat {
    DATA_AUTO, // by the first file's name: *.bin is uint16, anything else tokens or bytes
    // one token a byte, vocabulary 256: text, and anything when the user names the format
    DATA_BYTES,
    // UTF-8 text: one token a code point, vocabulary of the training file, in code-point order
    DATA_CHARACTERS,
    DATA_UINT16, // token numbers, little-endian and so wide where there is no header
    DATA_UINT32,
    DATA_TOKENS,    // token numbers, where the file says how wide they are
    DATA_TOKENIZER, // text: the tokens of data.tokenizer
} DataFormat;
extern const ChoiceTable DATA_FORMAT_CHOICES; // data_format.c

// A row of data.train: one of the sources that are mixed.
typedef struct DataSource {
    char path[CONFIG_PATH_BYTES];
    char name[CONFIG_LABEL_BYTES]; // for people; empty: the last part of its path
    Rational weight;               // its share is this over the sum of all
    double epochs_max;             // how often it may be read; 0: as often as it takes
} DataSource;
enum { DATA_SOURCES_MAX = 16 };
typedef struct DataSources {
    int64_t count;
    DataSource maps[DATA_SOURCES_MAX];
} DataSources;

// A row of data.curriculum: what a source's weight is from a step on.
typedef struct CurriculumRow {
    int64_t from;                    // so many steps come before
    char source[CONFIG_LABEL_BYTES]; // by its name
    Rational weight;                 // 0: it is not read
} CurriculumRow;
enum { CURRICULUM_ROWS_MAX = 64 };
typedef struct CurriculumRows {
    int64_t count;
    CurriculumRow maps[CURRICULUM_ROWS_MAX];
} CurriculumRows;

// A row of data.validation.
typedef struct ValidationSet {
    char path[CONFIG_PATH_BYTES];
    char name[CONFIG_LABEL_BYTES];
} ValidationSet;
enum { VALIDATION_SETS_MAX = 16 };
typedef struct ValidationSets {
    int64_t count; // 0: no validation
    ValidationSet maps[VALIDATION_SETS_MAX];
} ValidationSets;

// What becomes of documents in windows of tokens.
typedef enum DocumentRule {
    DOCUMENTS_IGNORE, // nothing knows of them
    DOCUMENTS_MASK,   // attention stays inside of one, where positions begin anew
} DocumentRule;
extern const ChoiceTable DOCUMENT_CHOICES; // documents.c
// How training windows are made of documents.
typedef enum PackingRule { PACKING_CONCATENATE, PACKING_BEST_FIT } PackingRule;
extern const ChoiceTable PACKING_CHOICES; // documents.c

typedef struct DataConfig {
    DataSources train;
    CurriculumRows curriculum;
    ValidationSets validation;
    DataFormat format;
    char tokenizer[CONFIG_PATH_BYTES]; // of text; empty: none
    int64_t vocab_size;     // of uint16/uint32 files; 0: must be given for those, derived for text
    double bytes_per_token; // of uint16/uint32 files, for bits per byte; 0: unknown
    bool check; // whether files are recognised, and refused where they are not what is asked for
    char jsonl_field[CONFIG_LABEL_BYTES]; // that has the text of a line of JSON
    DocumentRule documents;
    PackingRule packing;
    char document_end[CONFIG_LABEL_BYTES]; // text, or a token's number; empty: as the format says
    int64_t expand_limit;                  // MiB of a text in memory, which is compressed or JSON
} DataConfig;

typedef enum OptimizerKind {
    OPTIMIZER_ADAMW,
    OPTIMIZER_SGD,
    OPTIMIZER_LION,
    OPTIMIZER_MUON
} OptimizerKind;
extern const ChoiceTable OPTIMIZER_CHOICES; // optimizer.h

typedef enum LrSchedule { LR_CONSTANT, LR_LINEAR, LR_COSINE, LR_WSD } LrSchedule;
extern const ChoiceTable LR_SCHEDULE_CHOICES; // lr_schedule.c

// A row of train.groups: parameters by name.
typedef struct GroupRule {
    char match[CONFIG_PATTERN_BYTES]; // as fnmatch has it
    double lr_scale;                  // multiplies the learning rate
    double weight_decay;              // GROUP_DECAY_AS_BEFORE: what they have without the row
} GroupRule;
enum { GROUP_RULES_MAX = 16 };
#define GROUP_DECAY_AS_BEFORE (-1.0)
typedef struct GroupRules {
    int64_t count;
    GroupRule maps[GROUP_RULES_MAX];
} GroupRules;

// What follows when a step is an outlier (step_outliers.h).
typedef enum SpikePolicy { SPIKE_LOG, SPIKE_SKIP, SPIKE_ROLLBACK } SpikePolicy;
extern const ChoiceTable SPIKE_POLICY_CHOICES; // step_outliers.c

typedef struct OptimizerConfig {
    OptimizerKind kind;
    double lr, min_lr;
    LrSchedule schedule;
    int64_t warmup_steps;
    int64_t decay_steps; // WSD: length of the final decay
    double beta1, beta2, eps, weight_decay;
    double momentum; // of the optimizers that have one, otherwise 0
    bool nesterov;
    double clip_norm; // 0: no clipping
    // A step is an outlier whose loss or gradient norm lies more than skip_z standard deviations
    // above the mean of the last skip_window steps; 0: no finite step is.
    double skip_z;
    int64_t skip_window;
    SpikePolicy spike_policy;
    double ema;        // decay of the moving average of the weights; 0: there is none
    GroupRules groups; // the first that matches a parameter's name is its
} OptimizerConfig;

typedef enum Reproducible {
    REPRODUCIBLE_RANKS, // same bits on any number of ranks and threads
    REPRODUCIBLE_RUN,   // same bits when repeated on the same layout
    REPRODUCIBLE_OFF,
} Reproducible;
extern const ChoiceTable REPRODUCIBLE_CHOICES;
// Which ranks of an expert-parallel group have which experts.
typedef enum ExpertPlacement { PLACEMENT_EVEN, PLACEMENT_MEASURED } ExpertPlacement;
extern const ChoiceTable PLACEMENT_CHOICES;

typedef enum Precision {
    PRECISION_F32,
    // matrices and what they multiply in bf16; sums, masters, optimizer, router and norms in f32
    PRECISION_BF16,
} Precision;
extern const ChoiceTable PRECISION_CHOICES;

// Which steps are computed twice (recheck.h).
typedef enum RecheckKind { RECHECK_OFF, RECHECK_SUSPICIOUS, RECHECK_EVERY } RecheckKind;
extern const ChoiceTable RECHECK_CHOICES; // recheck.c

extern const ChoiceTable RESUME_CHOICES; // words that `resume` may be instead of a path

// What is evaluated and what generates.
typedef enum EvaluationWeights { WEIGHTS_TRAINED, WEIGHTS_EMA } EvaluationWeights;
extern const ChoiceTable EVALUATION_WEIGHTS_CHOICES; // evaluate_options.c

typedef struct TrainConfig {
    char run_dir[CONFIG_PATH_BYTES];
    int64_t seed;
    double hang_timeout;            // seconds without progress that end the run; 0: wait for ever
    int64_t check_replicas_every;   // steps between comparisons of what ranks hold alike; 0: never
    ExchangeChecks check_exchanges; // exchange_check.h
    RecheckKind recheck;
    int64_t recheck_every;          // steps
    int64_t stop_at;                // the step after which a start ends; 0: none
    double max_minutes;             // of one start, or of its supervisor; 0: no limit
    double hang_floor;              // the same, at least, where it is learned (phase_timeouts.h)
    char device[CONFIG_WORD_BYTES]; // auto, cpu, cuda
    int64_t threads; // OpenMP threads a rank; 0: OMP_NUM_THREADS or the cores at hand
    DataConfig data;
    int64_t steps;
    int64_t batch;         // sequences in the global batch of a step
    int64_t context;       // T
    int64_t micro_batches; // gradient accumulation: the batch is worked off in this many pieces
    // S of the whole batch; the micro-batches, and the ranks within one, divide it
    int64_t shards;
    Reproducible reproducible;
    Precision precision;
    double mask_share;   // of OBJECTIVE_MASKED
    int64_t max_skipped; // non-finite steps in a row that stop the run
    // Of SPIKE_ROLLBACK (roll_back.h): steps back and batches skipped, at least; times at most
    int64_t rollback_steps, rollback_batches, rollback_limit;
    OptimizerConfig optimizer;
    ModelConfig model;
    int64_t expert_parallel; // ranks that share one set of experts; 0: as many as can
    int64_t exchange_chunks; // pieces of the token exchange at most
    ExpertPlacement placement;
    int64_t checkpoint_every; // 0: only at the end
    bool checkpoint_async;    // training goes on while one is written
    CheckpointKeep keep;
    char resume[CONFIG_PATH_BYTES];       // auto, never, must or a path
    char resume_allow[CONFIG_PATH_BYTES]; // function keys that may change, joined by commas
    // checkpoint whose weights a new run begins with; empty: none
    char init[CONFIG_PATH_BYTES];
    int64_t log_every;
    bool log_every_row;            // a row of metrics for every step
    int64_t utilization_every;     // 0: as log_every
    int64_t dead_expert_steps;     // steps without a choice after which an expert is dead; 0: never
    int64_t digest_every;          // steps between digests; 0: none
    int64_t straggler_steps;       // steps after which a slow rank is named; 0: none is
    int64_t eval_every;            // 0: only at the end
    int64_t eval_batches;          // of `batch` sequences; 0: the whole validation file
    int64_t eval_stride;           // tokens from window to window; 0: `context`
    int64_t eval_mask_passes;      // of OBJECTIVE_MASKED: passes of a pseudo-perplexity
    Rational eval_capacity_factor; // 0: evaluation is dropless
    EvaluationWeights eval_weights; // of generation, too
    // files of routing: that is written, that is obeyed; empty: none
    char routing_record[CONFIG_PATH_BYTES];
    char routing_replay[CONFIG_PATH_BYTES];
} TrainConfig;

// The sections of keys that fill it, beside those of ModelConfig.
extern const OptionSection RUN_OPTIONS, TRAIN_OPTIONS, OPTIMIZER_OPTIONS, PARALLEL_OPTIONS,
    CHECKPOINT_OPTIONS, LOG_OPTIONS, EVALUATE_OPTIONS, ROUTING_OPTIONS, SIZE_RULES;
extern const OptionSection DATA_OPTIONS; // of DataConfig

#endif
