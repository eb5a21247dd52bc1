// The families of models that Hugging Face's transformers has and this program can hold: a family
// is a row. It says how the tensors of its files are called and laid out (TensorRule), and what its
// config.json says of a model (the rest). Everything else that knows of families walks over these
// rows.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_FAMILY_H
#define MOETRAIN_WORKER_HUGGINGFACE_FAMILY_H

#include <stdbool.h>
#include <stddef.h>

// ---- tensors ------------------------------------------------------------------------------------

// Which rows of ours the rows of a tensor are, in their order. Rows are those of a matrix, or the
// elements of a vector. d_head, d_rope, … are the configuration's.
typedef enum RowOrder {
    ROWS_ALL,
    ROWS_FIRST, // of the matrices that lie below one another in ours (Param.fused)
    ROWS_SECOND,
    ROWS_THIRD,
    ROWS_ALTERNATE,   // the first of the first, the first of the second, …
    ROWS_QUERIES,     // heads of [not turned, turned]; ours are [turned, not turned]
    ROWS_LATENT_KEYS, // the second, then the third, which is turned
    ROWS_KEYS_VALUES, // heads of [key, value]; ours are all keys, then all values
} RowOrder;

typedef enum RuleWhen { WHEN_OURS_IS_THERE, WITH_QUERY_LATENT, WITHOUT_QUERY_LATENT } RuleWhen;

// Shapes of tensors that are there, and zero, where ours is not: biases that experts are chosen
// without, and a shared expert that puts out nothing.
typedef enum ZeroShape { ZEROS_NONE, ZEROS_BIAS, ZEROS_GATE_UP, ZEROS_DOWN, ZEROS_GATE } ZeroShape;
enum { WIDTH_OF_ZEROS = 16 }; // of that expert: what engines can cut among 16 GPUs

typedef struct TensorRule {
    const char *theirs; // {l} is the layer's number, {e} the expert's
    const char *ours;
    RowOrder order;
    RuleWhen when;
    bool transposed;  // (in, out) instead of (out, in)
    bool all_experts; // theirs has the experts on its first axis, as ours has
    bool wide;        // stays f32 whatever the others become
    ZeroShape zeros;  // where a layer with experts has none of ours
} TensorRule;

// ---- config.json --------------------------------------------------------------------------------

// A key of theirs that means the same as one of ours.
typedef struct FieldRule {
    const char *theirs, *ours;
    const char *also;   // another name that files have for it; NULL: none
    const char *absent; // what a file means that leaves it out; NULL: it must not
} FieldRule;

// What holds of every model of the family: the value of a key of ours, as text.
typedef struct FactRule {
    const char *ours, *value;
} FactRule;

// Keys of theirs that must have this value, as JSON, if they are there: null is none at all.
typedef struct DemandRule {
    const char *theirs, *value;
} DemandRule;

// What model.bias can be, and the keys that say so; NULL: there is none.
typedef struct BiasRule {
    const char *theirs; // true: `with`
    const char *with;   // word of model.bias
    const char *second; // a further key, true beside the first: `with_both`
    const char *with_both;
    const char *always; // the only word there is; NULL: the above
} BiasRule;

typedef enum RouterFamily {
    ROUTER_OF_NONE,    // no experts
    ROUTER_NORMALIZED, // softmax over the chosen
    ROUTER_SOFTMAX,    // norm_topk_prob says whether over the chosen
    ROUTER_SIGMOIDS,
} RouterFamily;

typedef enum PlacesFamily {
    PLACES_NONE,
    PLACES_ALL,
    PLACES_LISTED,      // decoder_sparse_step, mlp_only_layers
    PLACES_AFTER_FIRST, // first_k_dense_replace
} PlacesFamily;

typedef enum WindowFamily {
    WINDOW_NONE,
    WINDOW_SAME,     // sliding_window, in every layer
    WINDOW_SAME_IF,  // likewise, where use_sliding_window
    WINDOW_TYPES,    // sliding_window, where layer_types says so
    WINDOW_TYPES_IF, // likewise, where use_sliding_window
} WindowFamily;

enum { FAMILY_RULES_MOST = 5 };

typedef struct Family {
    const char *model_type, *architecture;
    const char *compat; // the word of `compat` whose training rules are theirs; NULL: none
    const TensorRule *tensors[FAMILY_RULES_MOST]; // lists that end with a row without names
    const FieldRule *fields[FAMILY_RULES_MOST];   // likewise
    const FactRule *facts;                        // likewise; NULL: none
    const DemandRule *demands;                    // likewise
    RouterFamily router;
    PlacesFamily places;
    WindowFamily window;
    BiasRule bias;
    bool mxfp4;      // its experts may be stored so (quantized_weights.h)
    bool latents;    // multi-head latent attention
    bool turns_part; // partial_rotary_factor
    const char
        *qk_norm_if;      // key that says whether heads of queries and keys are normed; NULL: none
    bool heads_fill;      // d_head times heads is d_model
    bool shared_of_zeros; // moe.shared_experts may be 0
    bool widths_sum;      // shared experts together have n_shared_experts times an expert's width
} Family;

// Those of the table, in the order in which an export asks them; NULL ends it.
extern const Family *const FAMILIES[];
// By model_type; NULL: there is none.
const Family *family_find(const char *model_type);
// Whether one of its fields says the key.
bool family_has_field(const Family *family, const char *key);

#endif
