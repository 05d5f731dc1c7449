"""Workers of optkern's own, where there are futexes: `runtime` alone has them (they are static).

1. Every thread has a share of the jobs, the same in each step, as what it worked on may be in its
   cache, or in its node's memory. The queue of a share is one atomic number, its next job; who has
   done his share takes jobs of the others'. The caller works like the rest, and a worker that wakes
   up late finds the region closed: the caller waits for those in the middle of a job and for nobody
   else, where a barrier of OpenMP's waits for all, also for one that is put off its core.
2. A worker sleeps between two regions: spinning ones slow the matrix product of other threads. Only
   where the last calls, of all optimizers and threads, followed each other within half of
   `OPTKERN_SPIN` it looks on, for that long.
3. `generation` is odd while a region is open. A worker says that it is inside, then looks whether
   the region is open; the caller closes it, then looks whether somebody is inside. All four are
   sequentially consistent, so that one of the two sees the other; so are `asleep` and the wake.
4. A forked child has no workers. It never enters here: `runtime` makes it serial.
"""

cdef extern from *:
    """
    #if defined(_OPENMP) && defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
    /* The kernel's headers, without which Alpine's compiler comes; and clocks read at once. */
    #if __has_include(<linux/futex.h>) && __GCC_ATOMIC_LLONG_LOCK_FREE == 2
    #define OPTKERN_WORKERS 1
    #endif
    #endif

    #ifdef OPTKERN_WORKERS
    #include <linux/futex.h>
    #include <pthread.h>
    #include <signal.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #if defined(__x86_64__) || defined(__i386__)
    #define optkern_relax() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define optkern_relax() __asm__ __volatile__("yield")
    #else
    #define optkern_relax() ((void)0)
    #endif

    enum {
        OPTKERN_SPIN = 50000,     /* ns that a worker looks on, and the caller for the last job */
        OPTKERN_GAPS = 8,         /* so many begins in a row have to be near: of a call whose
                                     threads are chosen there are two */
        OPTKERN_THREADS = 1024    /* and no more in a region: what set_num_threads takes */
    };

    typedef void (*optkern_run_t)(void* job, void* context, Py_ssize_t k, int thread);

    static struct { _Alignas(128) Py_ssize_t next; } optkern_share[OPTKERN_THREADS];

    static struct {
        _Alignas(128) unsigned generation;
        int asleep;
        _Alignas(128) int inside;
        int waiting;                   /* the caller sleeps until nobody is inside */
        _Alignas(128) optkern_run_t run;
        void* job;
        void* context;
        Py_ssize_t jobs;
        int threads, spins;
        int count;                     /* workers there are */
        pthread_mutex_t lock;          /* one region at a time */
        _Alignas(128) long long ended; /* ns, when the last call ended */
        int near;                      /* calls in a row that followed at once */
        int patient;                   /* the user wants no spinning */
    } optkern_pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

    static long long optkern_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return 1000000000LL * t.tv_sec + t.tv_nsec;
    }

    static void optkern_futex(void* at, int what, unsigned value, unsigned bits) {
        syscall(SYS_futex, at, what | FUTEX_PRIVATE_FLAG, value, NULL, NULL, bits);
    }

    static unsigned optkern_bit(int worker) { return 1u << (worker < 32 ? worker - 1 : 31); }

    static Py_ssize_t optkern_first(int thread) {
        return optkern_pool.jobs * thread / optkern_pool.threads;
    }

    static void optkern_take_jobs(int thread) {
        int j, whose = thread;
        for (j = 0; j < optkern_pool.threads; j++) {
            Py_ssize_t* next = &optkern_share[whose].next;
            Py_ssize_t k, end = optkern_first(whose + 1);
            while (__atomic_load_n(next, __ATOMIC_RELAXED) < end
                   && (k = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < end)
                optkern_pool.run(optkern_pool.job, optkern_pool.context, k, thread);
            whose = whose + 1 < optkern_pool.threads ? whose + 1 : 0;
        }
    }

    /* Returns the generation of a region that is open and not the one seen last. */
    static unsigned optkern_await(int worker, unsigned seen, int spins) {
        long long until = spins ? optkern_ns() + OPTKERN_SPIN : 0;
        unsigned now, turn = 0;
        for (;;) {
            now = __atomic_load_n(&optkern_pool.generation, __ATOMIC_ACQUIRE);
            if (now & 1 && now != seen)
                return now;
            if (spins && (++turn % 16 || optkern_ns() < until)) {
                optkern_relax();
                continue;
            }
            spins = 0;
            __atomic_add_fetch(&optkern_pool.asleep, 1, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&optkern_pool.generation, __ATOMIC_SEQ_CST) == now)
                optkern_futex(&optkern_pool.generation, FUTEX_WAIT_BITSET, now,
                              optkern_bit(worker));
            __atomic_sub_fetch(&optkern_pool.asleep, 1, __ATOMIC_SEQ_CST);
        }
    }

    /* A thread may run where the one that made it may: that one's cores are its own affair, and
       workers are everybody's. Theirs are those of the main thread. */
    static void optkern_run_where_the_process_may(void) {
        unsigned long cores[128];   /* 8,192 of them */
        long bytes = syscall(SYS_sched_getaffinity, getpid(), sizeof cores, cores);
        if (bytes > 0)
            syscall(SYS_sched_setaffinity, 0, (size_t)bytes, cores);
    }

    static void* optkern_work(void* number) {
        int worker = (int)(size_t)number, spins = 0;
        unsigned seen = 0, now;
        optkern_run_where_the_process_may();
        for (;;) {
            seen = optkern_await(worker, seen, spins);
            spins = 0;
            __atomic_add_fetch(&optkern_pool.inside, 1, __ATOMIC_SEQ_CST);
            now = __atomic_load_n(&optkern_pool.generation, __ATOMIC_SEQ_CST);
            if (now & 1) {   /* open, so that what it is about stays as it is */
                seen = now;
                if (worker < optkern_pool.threads) {
                    spins = optkern_pool.spins;
                    optkern_take_jobs(worker);
                }
            }
            if (__atomic_sub_fetch(&optkern_pool.inside, 1, __ATOMIC_SEQ_CST) == 0
                && __atomic_load_n(&optkern_pool.waiting, __ATOMIC_SEQ_CST))
                optkern_futex(&optkern_pool.inside, FUTEX_WAKE_BITSET, 1, 1);
        }
        return NULL;
    }

    /* Workers take no signals but their own faults, which faulthandler and sanitizers report: the
       others are the program's. With fewer workers than asked for all gets done. */
    static void optkern_hire(int workers) {
        sigset_t all, old;
        pthread_attr_t detached;
        pthread_t thread;
        if (optkern_pool.count >= workers || pthread_attr_init(&detached))
            return;
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        sigfillset(&all);
        sigdelset(&all, SIGSEGV);
        sigdelset(&all, SIGBUS);
        sigdelset(&all, SIGFPE);
        sigdelset(&all, SIGILL);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        while (optkern_pool.count < workers
               && !pthread_create(&thread, &detached, optkern_work,
                                  (void*)(size_t)(optkern_pool.count + 1)))
            optkern_pool.count++;
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        pthread_attr_destroy(&detached);
    }

    static void optkern_wait_inside(void) {
        long long until = 0;
        unsigned inside, turn = 0;
        while ((inside = __atomic_load_n(&optkern_pool.inside, __ATOMIC_SEQ_CST))) {
            if (++turn % 16 == 1) {
                long long now = optkern_ns();
                until = until ? until : now + OPTKERN_SPIN;
                if (now > until) {
                    __atomic_store_n(&optkern_pool.waiting, 1, __ATOMIC_SEQ_CST);
                    optkern_futex(&optkern_pool.inside, FUTEX_WAIT_BITSET, inside, 1);
                    __atomic_store_n(&optkern_pool.waiting, 0, __ATOMIC_SEQ_CST);
                }
            }
            optkern_relax();
        }
    }

    /* A call begins: was it near the one before? */
    static void optkern_note_begin(long long now) {
        long long gap = now - __atomic_load_n(&optkern_pool.ended, __ATOMIC_RELAXED);
        int near = __atomic_load_n(&optkern_pool.near, __ATOMIC_RELAXED);
        near = gap > OPTKERN_SPIN / 2 ? 0 : near < OPTKERN_GAPS ? near + 1 : near;
        __atomic_store_n(&optkern_pool.near, near, __ATOMIC_RELAXED);
    }

    static void optkern_note_end(long long now) {
        __atomic_store_n(&optkern_pool.ended, now, __ATOMIC_RELAXED);
    }

    static int optkern_is_near(void) {
        return !__atomic_load_n(&optkern_pool.patient, __ATOMIC_RELAXED)
            && __atomic_load_n(&optkern_pool.near, __ATOMIC_RELAXED) == OPTKERN_GAPS;
    }

    static void optkern_set_patient(int patient) {
        __atomic_store_n(&optkern_pool.patient, patient, __ATOMIC_RELAXED);
    }

    /* 0: another thread of the program has the workers, nothing was done. */
    static int optkern_share_out(
        optkern_run_t run, void* job, void* context, Py_ssize_t jobs, int threads
    ) {
        int k;
        if (threads > OPTKERN_THREADS || pthread_mutex_trylock(&optkern_pool.lock))
            return 0;
        optkern_note_begin(optkern_ns());
        optkern_hire(threads - 1);
        optkern_pool.run = run;
        optkern_pool.job = job;
        optkern_pool.context = context;
        optkern_pool.jobs = jobs;
        optkern_pool.threads = threads;
        optkern_pool.spins = optkern_is_near();
        for (k = 0; k < threads; k++)
            __atomic_store_n(&optkern_share[k].next, optkern_first(k), __ATOMIC_RELAXED);
        __atomic_add_fetch(&optkern_pool.generation, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&optkern_pool.asleep, __ATOMIC_SEQ_CST))
            optkern_futex(&optkern_pool.generation, FUTEX_WAKE_BITSET, 1024,
                          threads > 32 ? ~0u : (1u << (threads - 1)) - 1);
        optkern_take_jobs(0);
        __atomic_add_fetch(&optkern_pool.generation, 1, __ATOMIC_SEQ_CST);
        optkern_wait_inside();
        optkern_note_end(optkern_ns());
        pthread_mutex_unlock(&optkern_pool.lock);
        return 1;
    }

    #else   /* OpenMP's threads, or none */
    #define OPTKERN_WORKERS 0
    typedef void (*optkern_run_t)(void* job, void* context, Py_ssize_t k, int thread);
    static int optkern_share_out(
        optkern_run_t run, void* job, void* context, Py_ssize_t jobs, int threads
    ) { (void)run; (void)job; (void)context; (void)jobs; (void)threads; return 0; }
    static void optkern_note_begin(long long now) { (void)now; }
    static void optkern_note_end(long long now) { (void)now; }
    static void optkern_set_patient(int patient) { (void)patient; }
    static int optkern_is_near(void) { return 0; }
    #endif
    """
    const int OPTKERN_WORKERS
    bint optkern_share_out(
        void (*run)(void*, void*, Py_ssize_t, int) noexcept nogil,
        void* job, void* context, Py_ssize_t jobs, int threads,
    ) noexcept nogil
    void optkern_note_begin(long long now) noexcept nogil
    void optkern_note_end(long long now) noexcept nogil
    void optkern_set_patient(bint patient) noexcept nogil
    bint optkern_is_near() noexcept nogil
