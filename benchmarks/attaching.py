"""Attach: a cached prompt meets a fingerprinted module."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import Row, medians


def run() -> list[Row]:
    """Measure ``attach`` beside PEFT's ``load_adapter``, on Gemma 3 270M, both from a warm disk."""
    import torch
    from peft import PeftModel, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    import promptreg
    from promptreg import artifacts
    from real.gemma import base_directory

    directory = base_directory()
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=100)
        saved = Path(folder) / "prompt"
        trained: Any = get_peft_model(model, config)
        trained.save_pretrained(saved)
        url = f"sqlite:///{folder}/promptreg.db"
        promptreg.Registry.upgrade(url)
        with promptreg.Registry.open(url, f"{folder}/objects") as registry:
            base = promptreg.from_module(model)
            registry.push(artifacts.read(saved), task="bench", base=base)
            pulled = registry.pull("bench")
            peer: Any = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16), saved
            )
            turn = iter(range(1_000_000))
            took = medians(
                {
                    "ours": lambda: promptreg.attach(model, pulled).detach(),
                    "pull": lambda: promptreg.attach(model, registry.pull("bench")).detach(),
                    "peft": lambda: peer.load_adapter(saved, adapter_name=f"a{next(turn)}"),
                    "module": lambda: promptreg.from_module(model),
                },
                repeat=15,
            )
    return [
        Row(
            what="attach",
            ours=took["ours"],
            peer="PEFT load_adapter",
            theirs=took["peft"],
            wanted=1,
        ),
        Row(
            what="pull from the cache and attach",
            ours=took["pull"],
            peer="PEFT load_adapter",
            theirs=took["peft"],
            wanted=1,
        ),
        Row(
            what="fingerprint of an unchanged module",
            ours=took["module"],
            peer="",
            theirs=None,
            wanted=0.005,
        ),
    ]
