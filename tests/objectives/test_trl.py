"""Our losses against that of TRL's GRPO trainer: recorded answers always, TRL itself where installed."""

import importlib.util
import json

import pytest
import torch
import trl_reference

from reclib.objectives.grpo import dapo_loss, dr_grpo_loss, group_advantages, grpo_loss, gspo_loss

RECORDED = json.loads(trl_reference.PATH.read_text())


def ours(case):
    log_prob, old, ref, mask, rewards = trl_reference.tensors()
    _, _, epsilon, epsilon_high, beta = trl_reference.CASES[case]
    log_prob.requires_grad_()
    advantage = group_advantages(rewards).advantages.flatten()
    clip = {"clip_low": epsilon, "clip_high": epsilon_high}
    if case.startswith("grpo"):
        loss = grpo_loss(log_prob, old, advantage, mask, ref, beta=beta, **clip)
    elif case.startswith("dapo"):
        loss = dapo_loss(log_prob, old, advantage, mask, **clip)
    elif case.startswith("dr_grpo"):  # TRL divides by the constant length 5 on top
        loss = dr_grpo_loss(log_prob, old, advantage, mask, **clip) / log_prob.shape[1]
    else:
        loss = gspo_loss(log_prob, old, advantage, mask, **clip)
    loss.backward()
    return {"loss": loss.item(), "gradient": log_prob.grad.tolist(), "advantages": advantage.tolist()}


def assert_same(found, expected):
    for key in ("loss", "gradient", "advantages"):
        torch.testing.assert_close(torch.tensor(found[key]), torch.tensor(expected[key]), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", trl_reference.CASES)
def test_equals_what_trl_answered(case):
    assert_same(ours(case), RECORDED[case])


if importlib.util.find_spec("trl"):  # not a skip: the same numbers are checked above without it

    @pytest.mark.parametrize("case", trl_reference.CASES)
    def test_trl_still_answers_the_same(case):
        assert_same(trl_reference.trl_loss(case), RECORDED[case])
