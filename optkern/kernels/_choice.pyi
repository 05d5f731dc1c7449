class ThreadChoice:
    prefers_many: bool
    serial: float
    parallel: float
    slowdown: float
    calls: int
    trials: int
    review: int
    debt: float
    awake: bool
    @property
    def trying(self) -> bool: ...
    def next(self, now: float) -> bool: ...
    def observe(self, now: float, part: float = 1) -> None: ...
