"""Claims of chapter 03, *Policy gradients*.

Experiment `03_policy_gradients`, data set `adworld` throughout. The unit of `gain` is the way from the uniform policy
(0) to the end of a climb on the exact gradient (1). Settings:

- "gradient, uniform" and "gradient, half way": 64 samples in groups of x, at two policies; arms are baselines. `length`
  is that of the mean estimate along the exact gradient, `variance` and `noise` are relative to its square.
- "one ad", "page": all learners at equal samples and equal tuning, clicks as rewards.
- "dynamic sampling, …", "deviation, …", "length", "epochs": one dial each.
- "clean log, n impressions", "log with taps, n impressions": GRPO from the uniform policy on the score of a reward
  model that was fitted to a log of random ads; arms are KL penalties. `peak` is the best true gain on the way, `fall`
  what is lost from there to the end. "own clean log, …", "own log with taps, …": the log is that of the policy
  half-way, from which training starts. (These two joined after a first run of the others had shown no fall: a reward
  model that sees random ads is kinder than the paper's, whose data come from the policy that is then trained.)
- "kl": k1 and k3 at policies x of the way from the uniform one to the best.
- "off-policy": pages of x slots drawn by one policy, used for the gradient at another, 0.01 nats per token away.
"""

from reclib.ledger import Cell, Claim, Difference, Least, Ratio

NAME, FIXED, WORLD = "03_policy_gradients", "2026-11-22", "adworld"

WILLIAMS = "REINFORCE (Williams, 1992)"
GREENSMITH = "Greensmith et al. (2004)"
KOOL = "Kool et al. (2019)"
RLOO = "RLOO (Ahmadian et al., 2024)"
PPO = "PPO (Schulman et al., 2017)"
K3 = "Schulman (2020)"
GRPO = "GRPO (Shao et al., 2024)"
DR_GRPO = "Dr. GRPO (Liu et al., 2025)"
DAPO = "DAPO (Yu et al., 2025)"
GSPO = "GSPO (Zheng et al., 2025)"
GAO = "Gao et al. (2023)"
TANG = "Tang & Munos (2025)"


def cell(arm: str, metric: str, setting: str, x: float | None = None) -> Cell:
    """A measurement of this chapter."""
    return Cell(arm, metric, WORLD, setting, x)


def difference(left: str, right: str, metric: str, setting: str) -> Difference:
    """One arm minus another."""
    return Difference(cell(left, metric, setting), cell(right, metric, setting))


HALF, UNIFORM = "gradient, half way", "gradient, uniform"
ANSWERS, CLICKS, RARE = (f"dynamic sampling, {kind}" for kind in ("right answers", "clicks", "rare clicks"))
DYNAMIC = "GRPO + dynamic sampling"
CLEAN, TAPS = "clean log, 8000 impressions", "log with taps, 8000 impressions"

CLAIMS = (
    Claim(
        id="ch03-baseline-unbiased",
        paper=WILLIAMS,
        chapter=3,
        claim="A baseline that does not look at the action leaves the expected gradient alone (a learned "
        "value, groups of 8: at least .95 of the exact gradient's length).",
        paper_value=1.0,
        paper_setting="theorem 1",
        experiment=NAME,
        statistic=cell("value", "length", HALF, 8),
        direction=">",
        threshold=0.95,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-baseline-variance",
        paper=GREENSMITH,
        chapter=3,
        claim="A learned value as baseline makes the variance of the gradient smaller than no baseline.",
        paper_value=None,
        paper_setting="bounds on the variance, and experiments on small control problems",
        experiment=NAME,
        statistic=Ratio(cell("value", "variance", HALF, 8), cell("none", "variance", HALF, 8)),
        direction="<",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-leave-one-out-variance",
        paper=KOOL,
        chapter=3,
        claim="With groups of 8, the mean of the other samples is a baseline for free: less variance than none "
        "at the same number of samples (policy half-way, about one click in three ads).",
        paper_value=None,
        paper_setting="structured prediction and routing; curves",
        experiment=NAME,
        statistic=Ratio(cell("leave-one-out", "variance", HALF, 8), cell("none", "variance", HALF, 8)),
        direction="<",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-leave-one-out-variance-rare",
        paper=KOOL,
        chapter=3,
        claim="The same at the uniform policy, where one ad in ten is clicked.",
        paper_value=None,
        paper_setting="our extension to rare rewards",
        experiment=NAME,
        statistic=Ratio(cell("leave-one-out", "variance", UNIFORM, 8), cell("none", "variance", UNIFORM, 8)),
        direction="<",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-leave-one-out-unbiased",
        paper=RLOO,
        chapter=3,
        claim="Leaving the sample itself out keeps the gradient unbiased, even in groups of 2 (at least .95 of "
        "the exact length; with the sample in, it would be one half).",
        paper_value=1.0,
        paper_setting="proved",
        experiment=NAME,
        statistic=cell("leave-one-out", "length", HALF, 2),
        direction=">",
        threshold=0.95,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-rloo-beats-ppo",
        paper=RLOO,
        chapter=3,
        claim="Where the whole sequence is one action, plain RLOO does better than PPO with its value network, "
        "clip and epochs.",
        paper_value=None,
        paper_setting="win rates of summaries and dialogues; not comparable",
        experiment=NAME,
        statistic=difference("RLOO", "PPO", "gain", "page"),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-clip-allows-epochs",
        paper=PPO,
        chapter=3,
        claim="With many epochs per batch (16), the clip does better than no clip.",
        paper_value=1.21,
        paper_setting="seven control tasks, normalised score .82 with clip .2, -.39 without clip or penalty",
        experiment=NAME,
        statistic=difference("16 epochs, clip", "16 epochs, no clip", "gain", "epochs"),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-epochs-pay",
        paper=PPO,
        chapter=3,
        claim="Several epochs per batch (4, with clip) learn more from the same samples than one.",
        paper_value=None,
        paper_setting="the reason for the method; compared with other methods, not epoch by epoch",
        experiment=NAME,
        statistic=difference("4 epochs, clip", "1 epochs, clip", "gain", "epochs"),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-group-replaces-critic",
        paper=GRPO,
        chapter=3,
        claim="The mean of a group replaces the value network: GRPO is no more than .02 below PPO at equal "
        "samples, on one ad and on pages.",
        paper_value=None,
        paper_setting="argued from memory and compute; no PPO row in the paper's tables",
        experiment=NAME,
        statistic=Least((difference("GRPO", "PPO", "gain", "one ad"), difference("GRPO", "PPO", "gain", "page"))),
        direction=">",
        threshold=-0.02,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-std-favours-extremes",
        paper=DR_GRPO,
        chapter=3,
        claim="Dividing by the group's deviation gives hard and easy contexts more weight: success 2 % against "
        "50 %, groups of 8, at least 1.5 times.",
        paper_value=None,
        paper_setting="argued, no figure",
        experiment=NAME,
        statistic=Ratio(
            cell("group mean and std", "weight", "weight of a user", 0.02),
            cell("group mean and std", "weight", "weight of a user", 0.5),
        ),
        direction=">",
        threshold=1.5,
        fixed=FIXED,
        seeds=1,
    ),
    Claim(
        id="ch03-std-costs-revenue",
        paper=DR_GRPO,
        chapter=3,
        claim="Not dividing by the deviation optimises the true objective better: more revenue, where users "
        "differ in what they can bring.",
        paper_value=None,
        paper_setting="mathematics; about equal accuracy, fewer tokens",
        experiment=NAME,
        statistic=difference("group mean", "group mean and std", "gain", "deviation, revenue"),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-length-bias",
        paper=DR_GRPO,
        chapter=3,
        claim="Averaging over the tokens of each sequence first makes sequences longer than summing over them "
        "(at least a tenth of a slot).",
        paper_value=None,
        paper_setting="response length of wrong answers; curves",
        experiment=NAME,
        statistic=difference("mean over tokens, then pages", "sum over tokens", "length at last", "length"),
        direction=">",
        threshold=0.1,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-zero-variance-grows",
        paper=DAPO,
        chapter=3,
        claim="As the policy improves, more and more groups have no variance (right or wrong answers, from the "
        "first to the last ten updates: at least .05 more).",
        paper_value=None,
        paper_setting="a curve of the share of questions that are always answered right",
        experiment=NAME,
        statistic=Difference(
            cell("GRPO", "zero variance at last", ANSWERS), cell("GRPO", "zero variance at first", ANSWERS)
        ),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-zero-variance-grows-clicks",
        paper=DAPO,
        chapter=3,
        claim="The same with clicks instead of right answers.",
        paper_value=None,
        paper_setting="our extension to a reward that stays random",
        experiment=NAME,
        statistic=Difference(
            cell("GRPO", "zero variance at last", CLICKS), cell("GRPO", "zero variance at first", CLICKS)
        ),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-dynamic-sampling-updates",
        paper=DAPO,
        chapter=3,
        claim="At an equal number of updates, replacing groups without variance helps (right or wrong answers).",
        paper_value=None,
        paper_setting="AIME 2024, 42 without, 50 with dynamic sampling",
        experiment=NAME,
        statistic=difference(DYNAMIC, "GRPO", "gain at equal updates", ANSWERS),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-dynamic-sampling-samples",
        paper=DAPO,
        chapter=3,
        claim="It helps even at an equal number of samples, those thrown away included.",
        paper_value=None,
        paper_setting="the paper compares training time, not samples",
        experiment=NAME,
        statistic=difference(DYNAMIC, "GRPO", "gain", ANSWERS),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-dynamic-sampling-rare-clicks",
        paper=DAPO,
        chapter=3,
        claim="It helps at an equal number of samples where it should matter most: clicks ten times rarer.",
        paper_value=None,
        paper_setting="our extension to rare rewards",
        experiment=NAME,
        statistic=difference(DYNAMIC, "GRPO", "gain", RARE),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-dapo-beats-grpo",
        paper=DAPO,
        chapter=3,
        claim="DAPO as a whole does better than GRPO at equal samples (pages).",
        paper_value=None,
        paper_setting="AIME 2024, 30 for GRPO, 50 for DAPO",
        experiment=NAME,
        statistic=difference("DAPO", "GRPO", "gain", "page"),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-sequence-ratio-steadier",
        paper=GSPO,
        chapter=3,
        claim="The ratio of a sequence of 16 tokens spreads at most half as far as the ratio of a token "
        "(deviation of the logarithm).",
        paper_value=None,
        paper_setting="argued from the length normalisation",
        experiment=NAME,
        statistic=Ratio(
            cell("sequence", "log ratio std", "off-policy", 16), cell("token", "log ratio std", "off-policy", 16)
        ),
        direction="<",
        threshold=0.5,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-sequence-ratio-less-noise",
        paper=GSPO,
        chapter=3,
        claim="Weighing by the ratio of the sequence instead of that of the token makes the gradient less "
        "noisy (16 tokens, off-policy).",
        paper_value=None,
        paper_setting="argued, and seen as stability of large runs",
        experiment=NAME,
        statistic=Ratio(cell("sequence", "noise", "off-policy", 16), cell("token", "noise", "off-policy", 16)),
        direction="<",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-gspo-clips-more",
        paper=GSPO,
        chapter=3,
        claim="With the paper's ranges GSPO clips far more than GRPO (at least ten times the share).",
        paper_value=100.0,
        paper_setting="two orders of magnitude; a mixture-of-experts language model",
        experiment=NAME,
        statistic=Ratio(cell("GSPO", "clip fraction", "page"), cell("GRPO", "clip fraction", "page")),
        direction=">",
        threshold=10.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-gspo-beats-grpo",
        paper=GSPO,
        chapter=3,
        claim="GSPO learns more than GRPO from the same samples (pages).",
        paper_value=None,
        paper_setting="training reward and benchmark curves",
        experiment=NAME,
        statistic=difference("GSPO", "GRPO", "gain", "page"),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-overoptimisation",
        paper=GAO,
        chapter=3,
        claim="Optimising a learned reward, the true reward rises and then falls (an honest log of 8,000 "
        "impressions: at least .05 lost).",
        paper_value=None,
        paper_setting="reward models of 3M to 3B parameters; curves",
        experiment=NAME,
        statistic=cell("beta = 0", "fall", CLEAN),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-overoptimisation-taps",
        paper=GAO,
        chapter=3,
        claim="The same where the log counts accidental taps as clicks.",
        paper_value=None,
        paper_setting="our extension to a reward that is wrong, not only uncertain",
        experiment=NAME,
        statistic=cell("beta = 0", "fall", TAPS),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-more-data-less-hacking",
        paper=GAO,
        chapter=3,
        claim="More data for the reward model, less true reward lost: 500 impressions against 32,000, at least .05.",
        paper_value=None,
        paper_setting="curves over the number of comparisons",
        experiment=NAME,
        statistic=Difference(
            cell("beta = 0", "fall", "clean log, 500 impressions"),
            cell("beta = 0", "fall", "clean log, 32000 impressions"),
        ),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-overoptimisation-own-log",
        paper=GAO,
        chapter=3,
        claim="The same as the first, where the log is that of the policy from which training starts.",
        paper_value=None,
        paper_setting="the paper's setting: comparisons of answers of the initial policy",
        experiment=NAME,
        statistic=cell("beta = 0", "fall", "own clean log, 8000 impressions"),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-overoptimisation-own-log-taps",
        paper=GAO,
        chapter=3,
        claim="The same with accidental taps in the log of the policy from which training starts.",
        paper_value=None,
        paper_setting="our extension to a reward that is wrong, not only uncertain",
        experiment=NAME,
        statistic=cell("beta = 0", "fall", "own log with taps, 8000 impressions"),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-more-data-less-hacking-own-log",
        paper=GAO,
        chapter=3,
        claim="More data of the starting policy for the reward model, less true reward lost (500 against 32,000).",
        paper_value=None,
        paper_setting="curves over the number of comparisons",
        experiment=NAME,
        statistic=Difference(
            cell("beta = 0", "fall", "own clean log, 500 impressions"),
            cell("beta = 0", "fall", "own clean log, 32000 impressions"),
        ),
        direction=">",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-kl-is-early-stopping",
        paper=GAO,
        chapter=3,
        claim="A KL penalty does not lift the peak of the true reward, it is like stopping early (beta = .1 "
        "against 0, log with taps: at most .02).",
        paper_value=0.0,
        paper_setting="no better frontier of true reward against KL",
        experiment=NAME,
        statistic=difference("beta = 0.1", "beta = 0", "peak", TAPS),
        direction="<",
        threshold=0.02,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-k3-variance",
        paper=K3,
        chapter=3,
        claim="k3 estimates the KL divergence with less variance than k1: near the reference at most half its "
        "deviation.",
        paper_value=0.071,
        paper_setting="N(0, 1) against N(0.1, 1), deviation over the true KL 1.42 for k3, 20 for k1",
        experiment=NAME,
        statistic=Ratio(cell("k3", "k3_std", "kl", 0.05), cell("k3", "k1_std", "kl", 0.05)),
        direction="<",
        threshold=0.5,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-k3-variance-far",
        paper=K3,
        chapter=3,
        claim="The same far from the reference, at the best policy: less than k1.",
        paper_value=0.85,
        paper_setting="N(0, 1) against N(1, 1), 1.7 for k3, 2 for k1",
        experiment=NAME,
        statistic=Ratio(cell("k3", "k3_std", "kl", 1.0), cell("k3", "k1_std", "kl", 1.0)),
        direction="<",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch03-k3-gradient",
        paper=TANG,
        chapter=3,
        claim="Differentiating k3 as a loss does not follow the gradient of the KL divergence it estimates "
        "(cosine below .9 at the best policy).",
        paper_value=None,
        paper_setting="proved, with a tabular example",
        experiment=NAME,
        statistic=cell("k3", "reverse_cosine", "kl", 1.0),
        direction="<",
        threshold=0.9,
        fixed=FIXED,
    ),
)
