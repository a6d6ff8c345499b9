"""The experiment of chapter 13: worlds and logs by hand, runs that do not mix, and what a run records."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reclib.data.open_bandit import LoggedFeedback
from reclib.experiments import ch13_drpo as ch13
from reclib.experiments import embedding_bandit as eb
from reclib.experiments import logged_ads as la
from reclib.experiments import offline_learners as ol
from reclib.experiments.results import Book, append, load, results_path
from reclib.objectives import drpo
from reclib.world import AdWorld, AdWorldConfig
from tests.records import check_record_is_whole

SMOKE = ch13.SCALES["smoke"]
SMALL = eb.BanditConfig(users=600, test_users=80, items=100, good=20)
SHORT = drpo.DRPOConfig(batch_size=60, steps=5, hidden=8)


@pytest.fixture(scope="module")
def worlds():
    return eb.make_worlds([SMALL] * 3, [0, 1, 2])


# ------------------------------------------------------------------ the embedding bandit


def test_the_log_is_what_its_policies_would_show(worlds):
    for run in range(3):
        state, item = worlds.log.state[run], worlds.item[run]
        target = eb.wants(state, worlds.weight[run])
        assert_close(target.norm(dim=-1), torch.ones(600))
        assert_close(item.norm(dim=-1), torch.ones(100))
        cosine = target @ item.T
        shown = (worlds.log.action[run] @ item.T).argmax(1)
        assert_close(item[shown], worlds.log.action[run])
        rank = (cosine > cosine.gather(1, shown[:, None])).sum(1)
        good = worlds.log.good[run]
        assert (rank[good] < 5).all()
        assert good.float().mean() == pytest.approx(0.1, abs=0.04)
        assert (rank < 20).float().mean() == pytest.approx(0.7 + 0.3 * 0.2, abs=0.06)


def test_rewards_by_hand_and_paired_mixtures():
    quiet = eb.BanditConfig(users=300, test_users=20, items=50, good=10, reward_noise=0.0)
    noisy = replace(quiet, expert=0.0, suboptimal=0.0)
    one, other = eb.make_worlds([quiet, noisy], [5, 5]).log.state
    assert_close(one, other)  # the same users, whatever the mixture
    world = eb.make_worlds([quiet], [5])
    target = eb.wants(world.log.state[0], world.weight[0])
    cosine = (target * world.log.action[0]).sum(-1)
    assert_close(world.log.reward[0], torch.exp(-(1 - cosine) / (2 * 0.45**2)))
    shown = (world.log.action @ world.item.mT).argmax(-1)
    assert_close(world.latent(world.log.state, shown), world.log.reward)


def test_unequal_users_by_hand():
    latent, stingy = torch.tensor([0.5, 0.5]), torch.tensor([True, False])
    for scale, offset, expected in ((1.0, 0.4, [0.3, 0.7]), (0.5, 0.0, [0.25, 0.5]), (1.0, 0.0, [0.5, 0.5])):
        config = eb.BanditConfig(scale=scale, offset=offset)
        assert_close(eb.earns(latent, stingy, torch.zeros(2), config), torch.tensor(expected))
    noisy = eb.earns(latent, stingy, torch.tensor([9.0, -9.0]), eb.BanditConfig())
    assert_close(noisy, torch.tensor([1.0, 0.0]))  # clipped


def test_shares_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"expert: 0.6 and suboptimal: 0.6 are shares"):
        eb.BanditConfig(expert=0.6, suboptimal=0.6)
    with pytest.raises(ValueError, match=r"expert: -0.1"):
        eb.BanditConfig(expert=-0.1)


def test_the_nearest_item_is_the_nearest(worlds):
    action = 3 * torch.randn(3, 7, 10, generator=torch.Generator().manual_seed(0))
    by_distance = torch.cdist(action, worlds.item).argmin(-1)
    assert (worlds.nearest(action) == by_distance).all()


def test_a_mixed_stream_is_half_the_policy_s_own(worlds):
    mix = eb.half_online(worlds, after=3)
    actor = ol.GaussianActor(10, 10, [0, 1, 2], (), SHORT)
    noise = ol.Noise([0, 1, 2])
    rows = ol.Batches(worlds.log, None, 60, noise).draw()
    early, late = mix(2, actor, rows, noise), mix(3, actor, rows, noise)
    assert not early.online.any()
    assert_close(early.reward, rows.reward)
    assert (late.online.sum(1) == 30).all()
    assert_close(late.action[:, 30:], rows.action[:, 30:])
    spread = (late.action[:, :30] - actor.policy(late.state[:, :30])).detach() / actor.policy.xi.exp().detach()
    assert float(spread.std()) == pytest.approx(1, abs=0.05)
    latent = worlds.latent(late.state[:, :30], worlds.nearest(late.action[:, :30]))
    assert float((late.reward[:, :30] - latent.clamp(0, 1)).abs().mean()) < 0.15


# ------------------------------------------------------------------ stacked runs


def test_a_stack_of_networks_is_the_networks():
    stack, x = ol.StackedMLP((4, 8, 3), [7, 9]), torch.randn(2, 5, 4)
    for run, seed in enumerate((7, 9)):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        assert_close(stack(x)[run], net(x[run]))


def one(table, run):
    return table.map(lambda t: t[run : run + 1])


@pytest.mark.parametrize("arm", ["bc", "%bc", "awr", "crr", "iql", "bppo", "drpo", "taper", "drpo, residual"])
def test_runs_trained_together_are_runs_trained_alone(worlds, arm):
    learner, knobs = ch13.ARMS[arm]
    rows = [(0.5,), (0.3,), (0.2,)] if knobs is not None or arm == "%bc" else list(learner.grid[:3])
    rows = [()] * 3 if learner.grid == ((),) else rows
    training = drpo.DRPOConfig(batch_size=60, steps=8, hidden=8)

    def trained(seeds, log, knobs):
        actor = ol.GaussianActor(10, 10, seeds, learner.networks, training)
        ol.train(actor, learner(torch.tensor(knobs).view(len(seeds), -1)), log, seeds, training, progress=False)
        return actor.policy.net.weights[0].detach()

    together = trained([0, 1, 2], worlds.log, [list(row) for row in rows])
    for run in range(3):
        alone = trained([run], one(worlds.log, run), [list(rows[run])])
        assert_close(together[run], alone[0], atol=1e-5, rtol=1e-4)


def test_worlds_networks_batches_and_draws_share_no_random_numbers():
    assert len({0, *ol.SHIFT.values()}) == 6
    assert min(abs(a - b) for a in (0, *ol.SHIFT.values()) for b in ol.SHIFT.values() if a != b) > 2 * ch13.TUNING_SEED
    drawn = [ol.Noise([0, 1], stream).uniform((50,)) for stream in ("batches", "actions")]
    assert not torch.isin(drawn[0], drawn[1]).any()


def test_batches_do_not_depend_on_what_an_arm_draws(worlds):
    seen = {}
    for arm in ("bc", "crr"):
        learner, knobs = ch13.ARMS[arm]
        actor = ol.GaussianActor(10, 10, [0, 1, 2], learner.networks, SHORT)
        made = learner(torch.tensor([list(learner.grid[0] if knobs is None else knobs)] * 3).view(3, -1))
        watch = lambda step, actor, learner, recent, arm=arm: seen.__setitem__(arm, list(recent))  # noqa: E731
        ol.train(actor, made, worlds.log, [0, 1, 2], SHORT, watch=watch, progress=False)
    assert len(seen["bc"]) == SHORT.steps
    assert_close(seen["bc"][-1].reward, seen["crr"][-1].reward)


def test_batches_come_from_the_rows_that_are_kept(worlds):
    batches = ol.Batches(worlds.log, worlds.log.good, 200, ol.Noise([0, 1, 2]))
    drawn = batches.draw()
    assert drawn.good.all()
    for run in range(3):
        kept = worlds.log.reward[run][worlds.log.good[run]]
        assert torch.isin(drawn.reward[run], kept).all()
        assert len(drawn.reward[run].unique()) > 0.5 * len(kept)
    with pytest.raises(ValueError, match="keep: a run has no row left to learn from"):
        ol.Batches(worlds.log, torch.zeros(3, 600, dtype=torch.bool), 10, ol.Noise([0, 1, 2]))


def test_remoteness_is_the_mahalanobis_distance(worlds):
    actor = ol.GaussianActor(10, 10, [0, 1, 2], (), SHORT)
    state, action = worlds.log.state, worlds.log.action
    expected = drpo.gaussian_remoteness(action, actor.policy(state), actor.policy.xi)
    assert_close(actor.remoteness(actor.log_prob(state, action)), expected, atol=1e-3, rtol=1e-4)


def moment(worlds, learner, steps=4):
    torch.manual_seed(0)
    actor = ol.GaussianActor(10, 10, [0, 1, 2], learner.networks, SHORT)
    rows = worlds.log.map(lambda t: t[:, :60])
    return ol.Moment(actor, rows, actor.log_prob(rows.state, rows.action), ol.Noise([0, 1, 2]), 0, steps)


@pytest.mark.parametrize("arm", list(ch13.ARMS))
def test_every_learner_has_a_finite_gradient_for_all_its_weights(worlds, arm):
    learner, knobs = ch13.ARMS[arm]
    m = moment(worlds, learner)
    made = learner(torch.tensor([list(knobs if knobs is not None else learner.grid[0])] * 3).view(3, -1))
    for step in range(4):  # BPPO clones first and then improves
        m = m._replace(step=step, log_prob=m.actor.log_prob(m.rows.state, m.rows.action))
        loss = made(m)
        assert loss.shape == (3,)
        m.actor.zero_grad()
        loss.sum().backward()
        for name, weight in m.actor.named_parameters():
            assert torch.isfinite(weight.grad).all(), name
    assert all(weight.grad.abs().sum() > 0 for weight in m.actor.critics.parameters())


def test_learners_are_their_equations(worlds):
    """A few arms against a direct computation, to see that the right numbers reach the right places."""
    m = moment(worlds, ol.AWR)
    value = m.actor.value(m.rows.state)
    weight = ((m.rows.reward - value) / 0.2).exp().clamp(max=20).detach()
    expected = -(weight * m.log_prob).mean(1) + (value - m.rows.reward).square().mean(1)
    assert_close(ol.AWR(torch.full((3, 1), 0.2))(m), expected)

    m = moment(worlds, ol.StateDRPO)
    nu = m.actor.value(m.rows.state)
    dual = (nu + (m.rows.reward - nu).clamp(min=0) / 0.1).mean(1)
    gain = ((m.rows.reward - nu).clamp(min=0).detach() * m.log_prob).mean(1) / 0.1
    state = ol.StateDRPO(torch.full((3, 1), 0.1))
    assert_close(state(m), dual - gain)
    assert (state.admits(m.actor, m.rows) == (m.rows.reward > nu)).all()
    with pytest.raises(ValueError, match="knobs: runs stacked for StateDRPO must share one kappa"):
        ol.StateDRPO(torch.tensor([[0.1], [0.2]]))

    learner = ol.DRPO(torch.full((3, 1), 0.5))
    m = moment(worlds, ol.DRPO)
    assert_close(learner(m), drpo.drpo_loss(m.log_prob, m.rows.reward, 0.5))
    assert_close(learner.fraction, drpo.adaptive_fraction(torch.full((3,), 0.5).double(), m.rows.reward))


def test_normalised_drpo_exp_is_drpo_exp_up_to_a_factor(worlds):
    m = moment(worlds, ol.DRPOExp)
    knobs, slopes = torch.tensor([[0.05], [0.2], [1.0]]), []
    for learner in (ol.DRPOExp, ol.NormalisedDRPOExp):
        log_prob = m.log_prob.detach().requires_grad_()
        learner(knobs)(m._replace(log_prob=log_prob)).sum().backward()
        slopes.append(-log_prob.grad)
    written, normalised = slopes
    assert_close(normalised.sum(1), torch.ones(3))
    assert_close(normalised, written / written.sum(1, keepdim=True))


def test_filtered_apg_repels_the_worse_half_of_the_top(worlds):
    m = moment(worlds, ol.FilteredAPG)
    log_prob = m.log_prob.detach().requires_grad_()
    ol.FilteredAPG(torch.zeros(3, 0))(m._replace(log_prob=log_prob)).sum().backward()
    top = drpo.top_rows(m.rows.reward, 0.5)
    assert (log_prob.grad[~top.mask] == 0).all()
    assert (log_prob.grad[top.mask] > 0).any()
    assert (log_prob.grad[top.mask] < 0).any()


def test_bppo_takes_what_the_critic_likes_better(worlds):
    learner = ol.BPPO(torch.tensor([[0.2, 0.9]] * 3))
    m = moment(worlds, ol.BPPO)
    learner(m._replace(step=2))
    before = learner.old.policy.net.biases[-1].detach().clone()
    assert_close(before, m.actor.policy.net.biases[-1].detach())
    sign = torch.tensor([1.0, -1.0, 1.0])[:, None]
    m.actor.q = lambda state, action: sign * action.sum(-1)  # the second run's critic likes small numbers
    with torch.no_grad():
        m.actor.policy.net.biases[-1].add_(1.0)
    learner._replace(m)
    after = learner.old.policy.net.biases[-1].detach()
    assert_close(after - before, torch.tensor([1.0, 0.0, 1.0])[:, None, None].expand_as(after))


# ------------------------------------------------------------------ logs with propensities


@pytest.fixture(scope="module")
def ads():
    config = la.AdLogConfig(
        impressions=300, contexts=40, judged=4000, recent=8, preset="tiny", dials=(("base_ctr", 0.1),)
    )
    return la.make_ad_logs([config, config], [0, 1])


def test_the_state_is_the_past_and_nothing_else():
    world = AdWorld(AdWorldConfig.preset("tiny"))
    log = world.simulate()
    read = la.readable(world)
    event = np.array([9, int(log.offsets[5]) + 8])
    found = la.features(world, log, event, recent=4)
    width = read.shape[1]
    for row, e in enumerate(event):
        first = max(int(log.offsets[log.user[e]]), e - 4)
        past = log.item[first:e]
        weight = 0.9 ** np.arange(len(past))[::-1]
        assert np.allclose(found[row, :width], (weight[:, None] * read[past - 1]).sum(0) / weight.sum(), atol=1e-6)
        assert np.allclose(found[row, width : 2 * width], read[log.item[e - 1] - 1])
        assert found[row, 2 * width :].sum() == 3  # gender, price, selling point: one each
    assert log.item[event].tolist() != log.item[event - 1].tolist()


def test_ad_logs_are_judged_on_other_users_and_exactly(ads):
    uniform = torch.full_like(ads.earns, -math.log(ads.earns.shape[-1]))
    assert_close(ads.value(uniform), ads.earns.mean((1, 2)))
    best = torch.nn.functional.one_hot(ads.earns.argmax(-1), ads.earns.shape[-1]).float().log()
    assert_close(ads.value(best), ads.earns.amax(-1).mean(1))
    assert_close(ads.greedy(best), ads.earns.amax(-1).mean(1))
    assert (ads.propensity > 0).all()
    assert_close(ads.judged.state[0], ads.state[0][ads.context[0]])
    assert not (ads.log.state[0] == ads.log.state[1]).all()  # another world
    # What is logged earns what the world says it should.
    for run in range(2):
        expected = ads.earns[run][ads.context[run], ads.judged.action[run]]
        assert float(ads.judged.reward[run].mean()) == pytest.approx(float(expected.mean()), rel=0.1)


def test_what_was_clicked_is_not_shown_again(ads):
    """Else the policy has weight where the log has none: importance weights whose mean is below 1."""
    uniform = torch.full_like(ads.earns, -math.log(ads.earns.shape[-1]))
    allowed = ads.allowed(uniform).exp()
    assert (allowed[ads.clicked] == 0).all()
    assert_close(allowed.sum(-1), torch.ones_like(allowed[..., 0]))
    for run in range(2):
        assert not ads.clicked[run][ads.context[run], ads.judged.action[run]].any()  # nor did the log
        at = ads.context[run], ads.judged.action[run]
        share = float(ads.clicked[run][ads.context[run]].float().mean())
        assert share > 0.05
        assert float((allowed[run][at] / ads.propensity[run]).mean()) == pytest.approx(1, abs=0.05)
        assert float((uniform[run].exp()[at] / ads.propensity[run]).mean()) == pytest.approx(1 - share, abs=0.05)


def test_estimate_errors_are_small_for_a_policy_like_the_log(ads):
    uniform = ads.allowed(torch.full_like(ads.earns, -math.log(ads.earns.shape[-1])))
    model = ads.earns.mean((1, 2), keepdim=True).expand_as(ads.earns)
    errors = ch13.estimate_errors(ads, uniform, model, 0)
    assert errors["error/snips"] < 0.4
    assert errors["error/dr"] < 0.4
    assert errors["error/dm"] < 0.2
    assert 100 < errors["effective rounds"] <= 4000
    exact = ch13.estimate_errors(ads, uniform, ads.earns, 0)
    assert exact["error/dm"] < 1e-6


def feedback(policy, seed, n=400, items=5):
    rng = np.random.default_rng(seed)
    context = np.eye(3)[rng.integers(3, size=n)]
    chance = np.full((n, items), 1 / items) if policy == "random" else rng.dirichlet(np.ones(items), n)
    action = (rng.random(n)[:, None] > chance.cumsum(1)).sum(1)
    click = (rng.random(n) < 0.05 + 0.4 * (action == context.argmax(1))).astype(float)
    return LoggedFeedback(
        context, np.zeros((n, items)), action, np.zeros(n, dtype=int), click, chance[np.arange(n), action],
        np.arange(n) * 1.0,
        pd.DataFrame({"a": range(items)}), ("a", "b", "c"), policy, "men",
    )  # fmt: skip


@pytest.fixture
def shop():
    return la.ShopLog(feedback("bts", 0), feedback("random", 1, n=3000))


def test_the_shop_s_reward_model_is_a_shrunken_click_rate(shop):
    log = shop.learn
    shown, clicks = (log.action == 2).sum(), log.reward[log.action == 2].sum()
    assert shop.model()[2] == pytest.approx((clicks + 500 * log.reward.mean()) / (shown + 500))
    uniform = np.full((3000, 5), 0.2)
    found = la.estimates(shop.judge, uniform, np.broadcast_to(shop.model(), (3000, 5)))
    assert found["snips"] == pytest.approx(shop.judge.reward.mean())
    assert found["ips"] == pytest.approx(shop.judge.reward.mean())
    assert found["effective rounds"] == pytest.approx(3000)
    assert found["snips/low"] < found["snips"] < found["snips/high"]
    assert found["dr/low"] < found["dr"] < found["dr/high"]
    favourite = shop.judge.context @ np.eye(3, 5)  # knows which item this user clicks
    gain = la.gain(shop.judge, favourite, uniform)
    assert 0.3 < gain["snips/gain/low"] < gain["snips/gain"] < gain["snips/gain/high"] < 0.5
    assert set(la.gain(shop.judge, uniform, uniform).values()) == {0}


@pytest.mark.slow
def test_cloning_clicks_beats_cloning_everything_in_a_shop(shop):
    training = drpo.DRPOConfig(steps=200, lr=1e-2, hidden=8, batch_size=200)
    value = {}
    for arm, knobs in (("bc", ()), ("drpo", (0.5,))):
        (measured, again) = ch13.judge_shop(shop, training, arm, knobs, [0, 1])
        value[arm] = {metric: v for metric, v, _ in measured}["snips"]
        assert measured != again
    assert value["drpo"] > value["bc"] + 0.05


# ------------------------------------------------------------------ theory


def test_theory_is_the_oracles():
    found = {(metric, x): value for metric, value, x in ch13._pushes()}
    assert found["sigma_after_one", 0.5] == pytest.approx(math.exp(0.0375))
    assert found["sigma_after_one", 2.0] == pytest.approx(math.exp(-0.15))
    assert found["distance", 0.5] == pytest.approx(0.96, abs=0.01)
    assert found["distance", 2.0] == ch13.BOUND
    assert found["growth_fixed_sigma", None] == pytest.approx(1.05)
    assert found["score_softmax", None] == pytest.approx(1.118, abs=1e-3)
    assert max(v for m, v, _ in ch13._duals(0) if m == "gap_to_program") < 1e-6
    caps = {(metric, x): value for metric, value, x in ch13._caps(0)}
    assert caps["largest_over_cap", 0.2] > 1.2
    assert caps["true_largest_over_cap", 0.05] == pytest.approx(1)


def test_what_diverges_is_recorded_as_the_bound(worlds):
    gauge = ch13.Gauge(worlds)
    gauge.note("mu_norm", 0, torch.tensor([1.0, math.inf, math.nan]))
    assert gauge.last("mu_norm").tolist() == [1.0, ch13.BOUND, ch13.BOUND]


def test_shares_are_those_of_the_last_batches(worlds):
    class Half:
        def admits(self, actor, rows):
            return torch.arange(60).expand(3, 60) < 30

    rows = worlds.log.map(lambda t: t[:, :60])
    batches = [rows._replace(good=torch.arange(60).expand(3, 60) < n) for n in (0, 15, 60)]
    gauge = ch13.Gauge(worlds)
    gauge(1, ol.GaussianActor(10, 10, [0, 1, 2], (), SHORT), Half(), batches)
    assert_close(gauge.last("expert_share"), torch.full((3,), 0.5).double())
    assert_close(gauge.last("log10_distance"), gauge.last("distance").log10())
    assert "online_share" not in gauge.seen


# ------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch13.run(SMOKE, [0, 1], root=root)
    return root


@pytest.mark.slow
def test_a_run_records_every_arm(smoke):
    rows = load(ch13.NAME, smoke)
    ends = rows[rows.x.isna() & (rows.setting == "")]
    for dataset in ("medium", "extreme"):
        assert set(ends[(ends.dataset == dataset) & (ends.metric == "reward")].arm) == set(SMOKE.arms)
        ads = ends[(ends.dataset == f"adworld {dataset}") & (ends.metric == "value")]
        assert set(ads.arm) == set(SMOKE.ad_arms)
    swept = rows[(rows.setting == "") & rows.x.notna()]
    assert set(swept[(swept.dataset == "noise") & (swept.metric == "reward")].x) == {0.0, 0.9}
    assert set(swept[swept.dataset == "repulsion"].arm) == {"scaled", "scaled, tapered"}
    assert set(swept[(swept.dataset == "online") & (swept.metric == "online_share")].arm) == {
        "adaptive bc", "drpo", "drpo-exp", "drpo, fixed"
    }  # fmt: skip
    assert {"force/mu", "force/xi", "score/negative"} <= set(swept[swept.dataset == "phantom"].metric)
    assert {"kappa 0.2", "kappa 1"} <= set(rows[rows.dataset == "sensitivity"].setting)
    assert set(rows.seed) == {0, 1, ch13.TUNING_SEED}
    assert set(rows[rows.seed == ch13.TUNING_SEED].setting) == {"tuning"}
    for dataset in ("unequal, offset", "unequal, scale"):
        assert "drpo, state" in set(rows[(rows.dataset == dataset) & (rows.metric == "stingy_share")].arm)


@pytest.mark.slow
def test_the_same_run_again_repeats_nothing(smoke, capsys):
    before = load(ch13.NAME, smoke)
    ch13.run(SMOKE, [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch13.NAME, smoke), before)


@pytest.mark.slow
def test_force_repeats_a_tuning_once(smoke, capsys):
    book = Book(ch13.NAME, [0], True, smoke)
    for _ in range(2):
        ch13.tuned("awr", "medium", SMOKE, book)
    assert capsys.readouterr().out.count("numbers in") == 1


@pytest.mark.slow
def test_the_knobs_are_the_best_in_the_tuning_world(smoke):
    book = Book(ch13.NAME, [0], False, smoke)
    rows = load(ch13.NAME, smoke)
    rows = rows[(rows.arm == "awr") & (rows.dataset == "medium") & (rows.setting == "tuning")]
    assert len(rows) == 6
    best = [ol.AWR.grid[int(x)] for x in rows[rows.value == rows.value.max()].x]
    assert ch13.tuned("awr", "medium", SMOKE, book) == best[0]
    changed = pd.DataFrame({**rows.to_dict("list"), "value": [0, 0, 0, 9.0, 0, 0]})
    append(results_path(ch13.NAME, smoke), changed.to_dict("records"))
    assert ch13.tuned("awr", "medium", SMOKE, book) == ol.AWR.grid[3]
    append(results_path(ch13.NAME, smoke), rows.to_dict("records"))
    assert ch13.tuned("drpo", "medium", SMOKE, book) == (0.5,)


@pytest.mark.slow
def test_a_recorded_number_is_that_of_a_run_alone(smoke):
    rows = load(ch13.NAME, smoke)
    rows = rows[(rows.arm == "drpo") & (rows.dataset == "extreme") & (rows.metric == "reward") & rows.x.isna()]
    bandit = ch13.mixed(SMOKE.bandit, "extreme")
    worlds = eb.make_worlds([bandit], [1])
    gauge = ch13.Gauge(worlds)
    ch13.train_bandit(ol.DRPO, [(0.5,)], worlds, [1], SMOKE.training, gauge, progress=False)
    recorded = rows.set_index("seed")["value"][1]
    assert float(gauge.last("reward")[0]) == pytest.approx(recorded, abs=1e-4)


def test_knobs_that_were_never_tuned_are_missed():
    nothing = pd.DataFrame({"arm": [], "dataset": [], "setting": [], "x": [], "value": []})
    assert ch13.chosen("bc", "medium", nothing) == ()
    assert ch13.chosen("drpo", "medium", nothing) == (0.5,)
    with pytest.raises(ValueError, match=r"results: no tuning of 'awr' on 'medium'"):
        ch13.chosen("awr", "medium", nothing)


def test_an_unknown_data_set_is_named():
    with pytest.raises(ValueError, match=r"datasets: there is no \['recsim'\]; choose from theory, medium"):
        ch13.run(SMOKE, [0], datasets=["recsim"])


def test_the_shipped_record_is_whole():
    check_record_is_whole(13, ch13.NAME)
