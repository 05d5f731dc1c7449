from types import ModuleType

modules: dict[str, ModuleType]
