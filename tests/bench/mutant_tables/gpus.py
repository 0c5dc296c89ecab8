"""Several GPUs."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "harness/shards.py": (("tests/test_shards.py", "-k", "its_place or gpu"),),
    "targets/across_gpus.py": (("tests/test_across_gpus.py",),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/shards.py": (
        ("share = count // self.local_size", "share = count"),
        ("range(self.local_rank * share", "range(self.rank * share"),
        ("(self.local_rank + 1) * share", "(self.local_rank + 2) * share"),
        (
            'if device != "cuda":\n        return ()',
            'if not device.startswith("cuda"):\n        return ()',
        ),
        ("own.gpus(num_gpus)[0] if", "own.local_rank if"),
        ("if own.local_size > num_gpus:", "if own.local_size >= num_gpus:"),
    ),
    "targets/across_gpus.py": (
        ("_WORK = 2", "_WORK = 1"),
        ("_PASSES = 10", "_PASSES = 100"),
        ("if needed <= room[first]:", "if needed < room[first]:"),
        ("if others and needed <= sum", "if others and needed <= max"),
        ("if others and needed <= sum(room.values()):\n", "if others:\n"),
        ("if needed <= free[first]:", "if False:"),
        ('if "disk" in', 'if "cpu" in'),
        ("output.last_hidden_state = output.last_hidden_state.to(device)", "pass"),
        ("    model.get_decoder().register_forward_hook(move)\n", ""),
    ),
}
