/* optkern for C and C++: every update rule on raw pointers, without the GIL.
 *
 *     #include <Python.h>
 *     #include "optkern.h"               // include_dirs: optkern.get_include()
 *
 *     const optkern_api *ok = optkern_import();                 // NULL: a Python exception is set
 *     optkern_rule rule;
 *     optkern_step step;
 *     ok->rule(&rule, "adagrad", options, OPTKERN_API_VERSION); // options: a dict or NULL
 *
 *     Py_BEGIN_ALLOW_THREADS
 *     void *streams[] = {p, g, sum};
 *     ok->next_step(&rule, &step);
 *     ok->update(&step, OPTKERN_FLOAT, streams, 3, n);
 *     Py_END_ALLOW_THREADS
 *
 * streams: the parameter, its gradient, then the state arrays in the order of the rule's `state`
 * (optkern.RULES), each of the parameter's size and zero before the first step:
 *
 *     sgd                momentum_buffer (with momentum)
 *     adagrad            sum
 *     rmsprop            square_avg, grad_avg (with centered), momentum_buffer (with momentum)
 *     adadelta           square_avg, acc_delta
 *     adam               exp_avg, exp_avg_sq, max_exp_avg_sq (with amsgrad)
 *     adamw              exp_avg, exp_avg_sq, max_exp_avg_sq (with amsgrad)
 *     adamax             exp_avg, exp_inf
 *     nadam              exp_avg, exp_avg_sq
 *     radam              exp_avg, exp_avg_sq
 *     lion               exp_avg
 *     lars               momentum_buffer (with momentum)
 *     lamb               exp_avg, exp_avg_sq
 *     adabelief          exp_avg, exp_avg_var
 *     adan               exp_avg, exp_avg_diff, exp_avg_sq, previous_grad
 *     ademamix           exp_avg, exp_avg_sq, exp_avg_slow
 *     adopt              exp_avg, exp_avg_sq
 *     asgd               ax
 *     ftrl               z, n
 *     laprop             exp_avg_ratio, exp_avg_sq
 *     mars               exp_avg, exp_avg_sq, last_grad
 *     rprop              prev, step_size
 *     schedulefreeadamw  z, exp_avg_sq
 *     schedulefreeradam  z, exp_avg_sq
 *     schedulefreesgd    z
 *
 * Rules that take norms (lars, lamb): the streams of a call are those of a whole tensor. Any other
 * rule may be called on parts of one.
 *
 * One that the options do not need may be NULL, or left out at the end. Streams must not overlap.
 * Calls that touch different elements may run at the same time; one call is one thread. Functions
 * that return int return 0, or -1 with a Python exception set (they take the GIL for that) and
 * nothing written.
 */
#ifndef OPTKERN_H
#define OPTKERN_H

#include <Python.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a struct or a function below changes. Functions are only ever added at the end. */
#ifndef OPTKERN_API_VERSION
#define OPTKERN_API_VERSION 1
#endif

enum { OPTKERN_FLOAT = 0, OPTKERN_DOUBLE = 1 };

/* A rule with its hyperparameters and the number of the step to come. */
typedef struct {
    double opaque[64];
} optkern_rule;

/* The constants of one step of a rule. */
typedef struct {
    double opaque[64];
} optkern_step;

typedef struct {
    int version; /* of the installed optkern's C API */
    size_t size; /* of this struct there */

    /* With the GIL: the rule `name` with `options`, a dict of hyperparameters or NULL. They are
     * checked as in Python; "step" (default 1) is the step to come. */
    int (*rule)(optkern_rule *rule, const char *name, PyObject *options, int version);

    /* Without the GIL, from here on. */

    /* Where a rule keeps a number ("lr"; "betas" are two), to be changed between steps; it is not
     * checked again. NULL, with ValueError set: the rule has no such number. */
    double *(*number)(optkern_rule *rule, const char *name);

    /* The constants of the step to come, and the next one after it. */
    void (*next_step)(optkern_rule *rule, optkern_step *step);

    /* Update n elements. type: OPTKERN_FLOAT or OPTKERN_DOUBLE. count: streams given. */
    int (*update)(const optkern_step *step, int type, void *const *streams, int count,
                  Py_ssize_t n);

    /* Update rows of arrays of `limit` rows of `width` elements each; the gradients are row_count
     * rows. Those of a row that comes more than once are summed first. */
    int (*update_rows)(const optkern_step *step, int type, void *const *streams, int count,
                       const Py_ssize_t *rows, Py_ssize_t row_count, Py_ssize_t limit,
                       Py_ssize_t width);
} optkern_api;

/* Imports optkern; call it once, with the GIL, when a module is initialised. */
static inline const optkern_api *optkern_import(void)
{
    const optkern_api *api = (const optkern_api *)PyCapsule_Import("optkern._capi.api", 0);
    if (api != NULL && (api->version != OPTKERN_API_VERSION || api->size < sizeof(optkern_api))) {
        PyErr_Format(PyExc_ImportError,
                     "built for version %d of optkern's C API, the installed optkern has version "
                     "%d: build it again",
                     OPTKERN_API_VERSION, api->version);
        return NULL;
    }
    return api;
}

#ifdef __cplusplus
}
#endif

#endif
