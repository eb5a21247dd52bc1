// The figures of an account of experts, after OLMoE's paper (arXiv:2409.02060, figures 22 to 25 and
// its table of tokens): each an SVG text that is to be freed (svg.h). Not collective.
#ifndef MOETRAIN_WORKER_ANALYSIS_EXPERT_FIGURES_H
#define MOETRAIN_WORKER_ANALYSIS_EXPERT_FIGURES_H

#include "worker/analysis/expert_account.h"
#include "worker/analysis/svg.h"
#include "worker/data/vocabulary.h"

// A square for each pair of experts of a layer, the darker the more of the row's tokens chose the
// column's expert too; of the 32 experts that most often have a companion where there are more.
void figure_coactivation(Svg *svg, const ExpertAccount *account);
// For each expert of a layer a bar of each data set: the share of its tokens that chose the expert.
// A dashed line is where all would be if experts were chosen equally often.
void figure_domains(Svg *svg, const ExpertAccount *account, const char *const *set_names);
// For each expert of a layer the tokens that chose it most faithfully, of those that occur
// FEWEST_OCCURRENCES times at least: the share of their occurrences that did.
enum { FEWEST_OCCURRENCES = 8 };
void figure_vocabulary(Svg *svg, const ExpertAccount *account, const Vocabulary *vocabulary);

#endif
