"""What TRL's own GRPO loss says about fixed tensors.

TRL needs transformers, accelerate and datasets, so it is not a requirement of the tests. Its answers are
kept in `trl_reference.json`; where TRL is installed, `test_trl.py` asks it again. To write the file anew:

    pip install trl && python tests/objectives/trl_reference.py
"""

import json
import types
from collections import defaultdict
from pathlib import Path

import torch

PATH = Path(__file__).with_name("trl_reference.json")

# Name of our loss -> (TRL's loss_type, its importance_sampling_level, epsilon, epsilon_high, beta)
CASES = {
    "grpo_loss": ("grpo", "token", 0.2, 0.2, 0.0),
    "grpo_loss_kl": ("grpo", "token", 0.2, 0.2, 0.04),
    "dapo_loss": ("dapo", "token", 0.2, 0.28, 0.0),
    "dr_grpo_loss": ("dr_grpo", "token", 0.2, 0.2, 0.0),
    "gspo_loss": ("grpo", "sequence", 3e-4, 4e-4, 0.0),
    "gspo_loss_wide": ("grpo", "sequence", 0.1, 0.1, 0.0),
}


def tensors():
    """Six sequences of up to five tokens in two groups of three, so far off-policy that the clip bites."""
    generator = torch.Generator().manual_seed(20240205)
    log_prob_old = -3 * torch.rand(6, 5, generator=generator, dtype=torch.float64)
    log_prob = log_prob_old + 0.4 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    log_prob_ref = log_prob_old + 0.3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    rewards = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return log_prob, log_prob_old, log_prob_ref, mask, rewards


def trl_loss(case):
    """Loss and gradient of TRL's `GRPOTrainer._compute_loss`, with a stand-in for trainer and model."""
    from trl import GRPOTrainer

    loss_type, level, epsilon, epsilon_high, beta = CASES[case]
    log_prob, log_prob_old, log_prob_ref, mask, rewards = tensors()
    log_prob.requires_grad_()
    sequences, tokens = log_prob.shape
    # The advantages are part of what is compared: TRL's formula, sample deviation + 1e-4.
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()

    accelerator = types.SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )
    trainer = types.SimpleNamespace(
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=epsilon,
        epsilon_high=epsilon_high,
        beta=beta,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        max_completion_length=tokens,
        current_gradient_accumulation_steps=1,
        accelerator=accelerator,
        model=types.SimpleNamespace(training=True),
        args=types.SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (log_prob, torch.zeros_like(log_prob), None),
    )
    ids = torch.zeros(sequences, tokens, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": log_prob_old,
        "ref_per_token_logps": log_prob_ref,
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return {"loss": loss.item(), "gradient": log_prob.grad.tolist(), "advantages": advantages.tolist()}


if __name__ == "__main__":
    import trl

    answers = {"trl": trl.__version__} | {case: trl_loss(case) for case in CASES}
    PATH.write_text(json.dumps(answers, indent=1) + "\n")
