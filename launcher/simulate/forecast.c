#include "launcher/simulate/forecast.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/log.h"
#include "launcher/config_rules.h"

static const double LEAST_GAIN = 1.5; // of tokens/s, by twice the ranks

// ---- points -------------------------------------------------------------------------------------

static bool load_experts(StepGraph *graph, const TrainConfig *train, ExpertLoad load, Error *err) {
    if (load.kind == LOAD_SKEWED) step_graph_skew(graph, train);
    return load.kind != LOAD_RECORDED || step_graph_recorded(graph, load.history, err) ||
           error_prefix(err, "--load");
}

static bool make_graph(StepGraph *graph, const Config *config, int64_t vocab_size, int ranks,
                       ExpertLoad load, TrainConfig *train, Error *err) {
    *graph = (StepGraph){0};
    if (!config_check_ranks(config, ranks, train, err)) return false;
    train->model.vocab_size = vocab_size;
    return step_graph_make(graph, train, ranks, err) && load_experts(graph, train, load, err);
}

// With `reached` the step of the graph takes so many seconds.
static void calibrate_to(Cluster *cluster, const StepGraph *graph, double seconds) {
    double low = 1e-4, high = 1e2;
    for (int i = 0; i < 60; i++) {
        cluster->reached = sqrt(low * high);
        if (replay_step(graph, cluster).seconds > seconds)
            low = cluster->reached;
        else
            high = cluster->reached;
    }
}

static void calibrate_first(Forecast *forecast, StepGraph *graphs, Cluster *cluster) {
    for (int i = 0; i < forecast->count; i++) {
        if (!isfinite(forecast->points[i].measured_ms) || graphs[i].ranks == 0) continue;
        calibrate_to(cluster, &graphs[i], 1e-3 * forecast->points[i].measured_ms);
        return;
    }
}

static void replay_points(Forecast *forecast, const StepGraph *graphs, const Cluster *cluster,
                          double tokens) {
    double of_one = NAN;
    for (int i = 0; i < forecast->count; i++) {
        ForecastPoint *point = &forecast->points[i];
        point->step.seconds = point->tokens_per_second = point->efficiency = NAN;
        if (graphs[i].ranks == 0) continue;
        point->step = replay_step(&graphs[i], cluster);
        point->tokens_per_second = tokens / point->step.seconds;
        if (point->ranks == 1) of_one = point->tokens_per_second;
        point->efficiency = point->tokens_per_second / point->ranks / of_one;
    }
}

bool forecast_make(Forecast *forecast, const Config *config, int64_t vocab_size, Cluster *cluster,
                   ExpertLoad load, bool calibrate, Error *err) {
    StepGraph graphs[FORECAST_POINTS_MAX] = {0};
    TrainConfig *train = calloc(1, sizeof *train);
    CHECK_MEMORY(train, "out of memory");
    bool ok = true;
    for (int i = forecast->count - 1; i >= 0 && ok; i--) { // the largest is what was asked for
        Error why = {0};
        int ranks = forecast->points[i].ranks;
        if (make_graph(&graphs[i], config, vocab_size, ranks, load, train, &why)) continue;
        step_graph_free(&graphs[i]);
        ok = i < forecast->count - 1 && why.exit_code == EXIT_CONFIG;
        if (ok)
            log_warn("on %d ranks: %s", ranks, why.message);
        else
            *err = why;
    }
    if (ok && calibrate) calibrate_first(forecast, graphs, cluster);
    if (ok) {
        double tokens = (double)(config->train.batch * config->train.context);
        replay_points(forecast, graphs, cluster, tokens);
    }
    for (int i = 0; i < forecast->count; i++) step_graph_free(&graphs[i]);
    free(train);
    return ok;
}

// ---- for people ---------------------------------------------------------------------------------

static bool is_measured(const Forecast *forecast) {
    bool any = false;
    for (int i = 0; i < forecast->count; i++) any |= isfinite(forecast->points[i].measured_ms);
    return any;
}

static void print_measured(FILE *out, const ForecastPoint *point) {
    double ms = 1e3 * point->step.seconds;
    if (isfinite(point->measured_ms))
        fprintf(out, " %.2f | %+.1f |", point->measured_ms, 100 * (ms / point->measured_ms - 1));
    else
        fputs(" – | – |", out);
}

void forecast_print(FILE *out, const Forecast *forecast) {
    bool measured = is_measured(forecast);
    fputs("| ranks | ms a step | tokens/s | efficiency, % | of the GEMM rate, % | of the step, %:",
          out);
    for (int p = 0; p < STEP_PARTS; p++) fprintf(out, " %s |", STEP_PART_NAMES[p]);
    fputs(measured ? " measured ms | simulated is off by, % |\n|" : "\n|", out);
    for (int i = 0; i < 5 + STEP_PARTS + (measured ? 2 : 0); i++) fputs("--:|", out);
    fputc('\n', out);
    for (int i = 0; i < forecast->count; i++) {
        const ForecastPoint *point = &forecast->points[i];
        if (!isfinite(point->step.seconds)) continue;
        fprintf(out, "| %d | %.2f | %.0f | ", point->ranks, 1e3 * point->step.seconds,
                point->tokens_per_second);
        if (isfinite(point->efficiency))
            fprintf(out, "%.1f |", 100 * point->efficiency);
        else
            fputs("– |", out);
        fprintf(out, " %.1f |", 100 * point->step.gemm_share);
        for (int p = 0; p < STEP_PARTS; p++)
            fprintf(out, " %.1f |", fabs(100 * point->step.parts[p] / point->step.seconds));
        if (measured) print_measured(out, point);
        fputc('\n', out);
    }
}

// The part of which a step on more ranks has most beyond what it would have, were they all as good.
static int largest_loss(const ForecastPoint *from, const ForecastPoint *to) {
    int largest = 0;
    double most = -INFINITY;
    for (int p = 0; p < STEP_PARTS; p++) {
        double lost = to->step.parts[p] - from->step.parts[p] * from->ranks / to->ranks;
        if (lost > most) largest = p;
        most = fmax(most, lost);
    }
    return largest;
}

// Whether point i + 1 has twice the ranks of point i, and both are known.
static bool is_doubling(const Forecast *forecast, int i) {
    const ForecastPoint *from = &forecast->points[i], *to = from + 1;
    return i + 1 < forecast->count && to->ranks == 2 * from->ranks &&
           isfinite(from->step.seconds + to->step.seconds);
}

static double gain_of(const Forecast *forecast, int i) {
    return forecast->points[i + 1].tokens_per_second / forecast->points[i].tokens_per_second;
}

void forecast_print_conclusion(FILE *out, const Forecast *forecast) {
    static const char *const losses[STEP_PARTS] = {
        "computing that is not shared", "imbalance", "waiting in turns", "exchange", "reduction",
        "statistics and agreement"};
    int last = -1, stops = -1; // the first of the doublings at the end that do not pay
    for (int i = 0; i < forecast->count; i++) {
        if (!is_doubling(forecast, i)) continue;
        if (gain_of(forecast, i) >= LEAST_GAIN)
            stops = -1;
        else if (stops < 0)
            stops = i;
        last = i;
    }
    if (last < 0) {
        fputs("too few points for a conclusion\n", out);
        return;
    }
    int from = stops >= 0 ? stops : last;
    const ForecastPoint *points = forecast->points;
    if (stops >= 0)
        fprintf(out, "from %d rank%s on", points[from].ranks, points[from].ranks == 1 ? "" : "s");
    else
        fprintf(out, "up to %d ranks", points[from + 1].ranks);
    fprintf(out, " doubling them %s: %d do %.2f times the work of %d in a second (%.1f would pay)",
            stops >= 0 ? "does not pay" : "pays", points[from + 1].ranks, gain_of(forecast, from),
            points[from].ranks, LEAST_GAIN);
    fprintf(out, "; most is lost to %s\n", losses[largest_loss(&points[from], &points[from + 1])]);
}
