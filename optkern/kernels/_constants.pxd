"""Hyperparameters in, the constants of one step out: the vocabulary of both, and the flags."""


cdef enum:
    # What an update does beyond its plain form. The first three are arithmetic on p and g alone;
    # the others decide which state is touched (`Rule.variants` in rules.py).
    MAXIMIZE = 1
    L2 = 2
    SHRINK = 4
    MOMENTUM = 8
    NESTEROV = 16
    CENTERED = 32
    AMSGRAD = 64
    RECTIFIED = 128


cdef struct hyper_t:
    # Every hyperparameter of every rule, as `Domain.encode` in rules.py gives it.
    double lr
    double beta1
    double beta2
    double eps
    double alpha
    double rho
    double momentum
    double dampening
    double lr_decay
    double momentum_decay
    double mu_product
    double weight_decay
    double nesterov
    double centered
    double amsgrad
    double maximize
    double decay_form
    double eps_form
    double momentum_form
    double step


cdef struct constants_t:
    # What a formula reads. beta/gain pairs weigh a running average's past and its new term.
    double decay         # weight decay, added to the gradient
    double shrink        # decoupled weight decay, multiplies the parameter
    double beta1
    double gain1
    double beta2
    double gain2
    double momentum
    double gain
    double rate          # multiplies the direction
    double gradient_rate  # NAdam: the share of the gradient itself in the direction
    double eps
    double mu_product    # NAdam: the product with this step's factor in it
    unsigned int flags


ctypedef void (*derive_t)(const hyper_t* o, constants_t* h) noexcept nogil

cdef derive_t derivation(str rule)
cdef int encode(hyper_t* o, str name, object value) except -1
