/* Descent on a quadratic, f(p) = sum_i curvature[i] / 2 * (p[i] - target[i])^2, in C: any rule of
 * optkern's, on the buffers of any exporter, without the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "optkern.h"

static const optkern_api *ok;

enum { P, CURVATURE, TARGET, GRADIENT, STATE, BUFFERS = STATE + 4 };

/* `steps` steps on n doubles, lr times `decay` after each; buffers[STATE] and after: the state. */
static int descend(optkern_rule *rule, Py_buffer *buffers, int states, Py_ssize_t n, long steps,
                   double decay)
{
    double *lr = ok->number(rule, "lr");
    double *p = buffers[P].buf, *g = buffers[GRADIENT].buf;
    const double *curvature = buffers[CURVATURE].buf, *target = buffers[TARGET].buf;
    void *streams[2 + BUFFERS - STATE] = {p, g};
    optkern_step step;
    for (int k = 0; k < states; k++)
        streams[2 + k] = buffers[STATE + k].buf;
    while (steps-- > 0) {
        for (Py_ssize_t i = 0; i < n; i++)
            g[i] = curvature[i] * (p[i] - target[i]);
        ok->next_step(rule, &step);
        if (ok->update(&step, OPTKERN_DOUBLE, streams, 2 + states, n) < 0)
            return -1;
        *lr *= decay;
    }
    return 0;
}

static int take_buffers(PyObject *arrays, Py_buffer *buffers, int *taken)
{
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(arrays); k++) {
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(arrays, k), &buffers[k],
                               PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0)
            return -1;
        *taken += 1;
        if (strcmp(buffers[k].format, "d") != 0 || buffers[k].len != buffers[0].len) {
            PyErr_Format(PyExc_ValueError, "array %zd: expected float64 of p's size", k);
            return -1;
        }
    }
    return 0;
}

static PyObject *py_descend(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *options, *arrays;
    Py_buffer buffers[BUFFERS];
    optkern_rule rule;
    long steps;
    double decay;
    int taken = 0, status = -1;
    if (!PyArg_ParseTuple(args, "sO!ldO!", &name, &PyDict_Type, &options, &steps, &decay,
                          &PyTuple_Type, &arrays))
        return NULL;
    if (PyTuple_GET_SIZE(arrays) < STATE || PyTuple_GET_SIZE(arrays) > BUFFERS) {
        PyErr_SetString(PyExc_ValueError, "expected p, curvature, target, gradient, state arrays");
        return NULL;
    }
    if (ok->rule(&rule, name, options, OPTKERN_API_VERSION) == 0 &&
        take_buffers(arrays, buffers, &taken) == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = descend(&rule, buffers, taken - STATE, buffers[P].len / 8, steps, decay);
        Py_END_ALLOW_THREADS
    }
    while (taken-- > 0)
        PyBuffer_Release(&buffers[taken]);
    if (status < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"descend", py_descend, METH_VARARGS,
     "descend(rule, options, steps, decay, (p, curvature, target, gradient, *state)): p in place."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "descend", NULL, -1, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_descend(void)
{
    ok = optkern_import();
    return ok == NULL ? NULL : PyModule_Create(&module);
}
