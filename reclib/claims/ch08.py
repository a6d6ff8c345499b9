"""Claims of chapter 08, *DiffuReason*.

Experiment `08_diffureason`; its module says what arms, settings and data sets are. Of the paper only the abstract, one
pair of numbers and an online test reached us, and the inside of its boxes is our reconstruction: a claim that fails
here fails for a reconstruction in the spirit of DiffuReason. Elsewhere "-H" and "-S" are the backbones HSTU and SASRec.

Before the thresholds were fixed, pilots had shown single runs on validation: in a world of its own (seed 1000, smaller)
SASRec by itself .163 (by dot products .151), thinking .148, with diffusion .158, teacher-forced .121 to .135, GRPO .159
(A) and .153 (B), ReaRec .160, DreamRec .009 and on items that stay .094; on Industrial & Scientific SASRec by itself
.084 (dot .079), thinking .080, with diffusion .076; on the forks (seed 1000) with diffusion .59 of eight modes found,
teacher-forced .89. Claims about these say so.
"""

from reclib.ledger import Cell, Claim, Correlation, Difference, Least, Ratio

NAME, FIXED = "08_diffureason", "2026-11-26"
WORLD, SCIENTIFIC, FORKS, CLOCK = "adworld", "amazon2018-scientific", "forks", "clock"
NDCG = "test/ndcg@10"
BACKBONES = ("sasrec", "hstu", "gru4rec", "decoder")
SEEN = "not in the paper; single runs had been seen, see the top of this file"

DIFFUREASON = "DiffuReason (Jiang et al., 2026)"
BOOK = "This book: chapter 08"


def ranked(method: str, backbone: str = "sasrec", dataset: str = WORLD) -> Cell:
    """A trained arm, as it is served."""
    return Cell(f"{method}, {backbone}", NDCG, dataset)


def gain(method: str, over: str, backbone: str = "sasrec", dataset: str = WORLD) -> Ratio:
    """By what factor an arm ranks better than another on the same backbone."""
    return Ratio(ranked(method, backbone, dataset), ranked(over, backbone, dataset))


def thoughts(method: str, k: int) -> Cell:
    """NDCG@10 with K thoughts."""
    return ranked(method) if k == 2 else Cell(f"{method}, sasrec", NDCG, WORLD, "thoughts", k)


def kept(method: str, noise: float) -> Ratio:
    """Share of the NDCG@10 that is left when noise is added to every thought."""
    return Ratio(Cell(f"{method}, sasrec", NDCG, WORLD, "noise", noise), ranked(method))


def fork(method: str, metric: str, ways: int | None = None, setting: str = "forks") -> Cell:
    """A measurement on the forks."""
    return Cell(f"{method}, sasrec", metric, FORKS, setting, ways)


def request(arm: str, x: int) -> Cell:
    """Seconds of a request."""
    return Cell(f"{arm}, sasrec", "seconds", CLOCK, "request", x)


CLAIMS = (
    Claim(
        id="ch08-video-games",
        paper=DIFFUREASON,
        chapter=8,
        claim="On HSTU, DiffuReason lifts NDCG@10 from .0945 to .1041 on Amazon-2023 Video & Games.",
        paper_value=0.1041,
        paper_setting="67,658 users, 25,535 items, full ranking; known to us from somebody's notes",
        experiment=NAME,
        statistic=None,
        direction=">",
        threshold=0.0945,
        fixed=FIXED,
        not_testable="this data set is not here, and the inside of the method is not known",
    ),
    Claim(
        id="ch08-online",
        paper=DIFFUREASON,
        chapter=8,
        claim="Online, it brings .79 % more merchandise value and 1.15 % more ad consumption.",
        paper_value=0.7902,
        paper_setting="Tencent Ads, WeChat Channels: 20 % of the traffic, five days; known to us from somebody's notes",
        experiment=NAME,
        statistic=None,
        direction=">",
        threshold=0.0,
        fixed=FIXED,
        not_testable="an online test of somebody else's traffic",
    ),
    Claim(
        id="ch08-gain-hstu",
        paper=DIFFUREASON,
        chapter=8,
        claim="On HSTU it ranks better than HSTU by itself, with either kind of scores.",
        paper_value=1.102,
        paper_setting="Amazon-2023 Video & Games: .1041 / .0945; here in the ad world",
        experiment=NAME,
        statistic=Least((gain("diffureason", "backbone", "hstu"), gain("diffureason", "dot", "hstu"))),
        direction=">",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-gain-hstu-scientific",
        paper=DIFFUREASON,
        chapter=8,
        claim="The same on Amazon Industrial & Scientific.",
        paper_value=1.102,
        paper_setting="Amazon-2023 Video & Games: .1041 / .0945",
        experiment=NAME,
        statistic=Least(
            (
                gain("diffureason", "backbone", "hstu", SCIENTIFIC),
                gain("diffureason", "dot", "hstu", SCIENTIFIC),
            )
        ),
        direction=">",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-plug-in",
        paper=DIFFUREASON,
        chapter=8,
        claim="It helps every backbone: SASRec, HSTU, GRU4Rec and the decoder over semantic IDs.",
        paper_value=None,
        paper_setting="stated for several backbones and four data sets; no number reached us. Here in the ad world",
        experiment=NAME,
        statistic=Least(tuple(gain("diffureason", "backbone", backbone) for backbone in BACKBONES)),
        direction=">",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-gain-scientific",
        paper=DIFFUREASON,
        chapter=8,
        claim="On SASRec it ranks better than SASRec by itself on Amazon Industrial & Scientific.",
        paper_value=None,
        paper_setting="stated for several backbones and four data sets; no number reached us",
        experiment=NAME,
        statistic=Least(
            (
                gain("diffureason", "backbone", dataset=SCIENTIFIC),
                gain("diffureason", "dot", dataset=SCIENTIFIC),
            )
        ),
        direction=">",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-think",
        paper=DIFFUREASON,
        chapter=8,
        claim="The first part helps: two thoughts rank better than the backbone by itself.",
        paper_value=None,
        paper_setting="an ablation in the paper did not reach us; single runs had been seen, see the top of this file",
        experiment=NAME,
        statistic=Difference(ranked("think"), ranked("backbone")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-diffuse",
        paper=DIFFUREASON,
        chapter=8,
        claim="The second part helps: a diffusion on top of the thoughts ranks better than the thoughts.",
        paper_value=None,
        paper_setting="an ablation in the paper did not reach us; single runs had been seen, see the top of this file",
        experiment=NAME,
        statistic=Difference(ranked("diffuse"), ranked("think")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-grpo",
        paper=DIFFUREASON,
        chapter=8,
        claim="The third part helps: GRPO in every step ranks better than the supervised loss alone.",
        paper_value=None,
        paper_setting="an ablation in the paper did not reach us; single runs had been seen, see the top of this file",
        experiment=NAME,
        statistic=Difference(ranked("diffureason"), ranked("diffuse")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-compute",
        paper=BOOK,
        chapter=8,
        claim="The gain is not the backbone's passes: DiffuReason ranks better than a SASRec with as many blocks as "
        "its thoughts run through (which does not pay for the denoiser).",
        paper_value=None,
        paper_setting="a control that did not reach us, if there is one",
        experiment=NAME,
        statistic=Difference(ranked("diffureason"), ranked("deeper")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-compute-scientific",
        paper=BOOK,
        chapter=8,
        claim="The same on Amazon Industrial & Scientific.",
        paper_value=None,
        paper_setting="a control that did not reach us, if there is one",
        experiment=NAME,
        statistic=Difference(ranked("diffureason", dataset=SCIENTIFIC), ranked("deeper", dataset=SCIENTIFIC)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-compute-time",
        paper=BOOK,
        chapter=8,
        claim="Nor is it the time of training: DiffuReason ranks better than SASRec with four times the epochs, on "
        "both data sets.",
        paper_value=None,
        paper_setting="a control that did not reach us, if there is one",
        experiment=NAME,
        statistic=Least(
            (
                Difference(ranked("diffureason"), ranked("longer")),
                Difference(ranked("diffureason", dataset=SCIENTIFIC), ranked("longer", dataset=SCIENTIFIC)),
            )
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-ensemble",
        paper=BOOK,
        chapter=8,
        claim="It ranks better than sixteen passes of SASRec with dropout, whose probabilities are averaged.",
        paper_value=None,
        paper_setting="a control that did not reach us, if there is one",
        experiment=NAME,
        statistic=Difference(ranked("diffureason"), ranked("mc-dropout")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-head",
        paper=BOOK,
        chapter=8,
        claim="Part of any gain over a published SASRec is the scores: by angle it ranks better than by dot products.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Difference(ranked("backbone"), ranked("dot")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-rearec",
        paper=DIFFUREASON,
        chapter=8,
        claim="A hypothesis that is refined ranks better than a deterministic chain of thoughts (ReaRec, PRL, with its "
        "own scores by dot product).",
        paper_value=None,
        paper_setting="the reason given for the method; the numbers did not reach us",
        experiment=NAME,
        statistic=Least(
            (
                Difference(ranked("diffureason"), ranked("rearec")),
                Difference(ranked("diffureason", dataset=SCIENTIFIC), ranked("rearec", dataset=SCIENTIFIC)),
            )
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-dreamrec",
        paper=BOOK,
        chapter=8,
        claim="It ranks better than DreamRec with items that stay.",
        paper_value=None,
        paper_setting="not in what reached us",
        experiment=NAME,
        statistic=Least(
            (
                Difference(ranked("diffureason"), ranked("mended dreamrec")),
                Difference(ranked("diffureason", dataset=SCIENTIFIC), ranked("mended dreamrec", dataset=SCIENTIFIC)),
            )
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-collapse",
        paper=BOOK,
        chapter=8,
        claim="With nothing but its squared error, DreamRec ranks hardly better than at random (NDCG@10 of .008).",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=ranked("dreamrec"),
        direction="<",
        threshold=0.02,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-teacher-forcing",
        paper=BOOK,
        chapter=8,
        claim="It matters where the cross-entropy is taken: of the served intent it is better than of a guess from the "
        "noisy target.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Difference(ranked("diffuse"), ranked("teacher-forced")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-errors-pile-up",
        paper=DIFFUREASON,
        chapter=8,
        claim="Errors pile up in a deterministic chain: eight thoughts rank worse than two.",
        paper_value=None,
        paper_setting="the reason given for the method; no number reached us. Trained with as many thoughts",
        experiment=NAME,
        statistic=Difference(thoughts("think", 8), thoughts("think", 2)),
        direction="<",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-flatter",
        paper=DIFFUREASON,
        chapter=8,
        claim="Refined, a long chain loses less: of its NDCG@10 with two thoughts it keeps a larger share with eight.",
        paper_value=None,
        paper_setting="the reason given for the method; no number reached us",
        experiment=NAME,
        statistic=Difference(
            Ratio(thoughts("diffuse", 8), thoughts("diffuse", 2)), Ratio(thoughts("think", 8), thoughts("think", 2))
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-robust",
        paper=DIFFUREASON,
        chapter=8,
        claim="The diffusion protects against noise in the thoughts: with noise of their own size, DiffuReason keeps a "
        "larger share of its NDCG@10 than thinking alone.",
        paper_value=None,
        paper_setting="the reason given for the method; no number reached us",
        experiment=NAME,
        statistic=Difference(kept("diffureason", 1.0), kept("think", 1.0)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-robust-little",
        paper=DIFFUREASON,
        chapter=8,
        claim="The same with noise of a quarter of their size.",
        paper_value=None,
        paper_setting="the reason given for the method; no number reached us",
        experiment=NAME,
        statistic=Difference(kept("diffureason", 0.25), kept("think", 0.25)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-warm-start",
        paper=BOOK,
        chapter=8,
        claim="It is better to start from the hypothesis at half the noise than from nothing but noise, each trained "
        "so.",
        paper_value=None,
        paper_setting="whether the paper starts warm did not reach us",
        experiment=NAME,
        statistic=Difference(ranked("diffureason"), ranked("cold")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-steps",
        paper=DIFFUREASON,
        chapter=8,
        claim="It is the iteration that helps: from full noise, ten steps are better than one (with the same weights, "
        "trained to rank on the path from level 5).",
        paper_value=None,
        paper_setting='"iteratively" in the abstract; no number reached us; single runs had been seen',
        experiment=NAME,
        statistic=Difference(
            Cell("diffureason, sasrec", NDCG, WORLD, "steps", 10), Cell("diffureason, sasrec", NDCG, WORLD, "steps", 1)
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-joint",
        paper=DIFFUREASON,
        chapter=8,
        claim="Joint training is better than training in stages, with as many epochs.",
        paper_value=None,
        paper_setting="stated as a reason for the method; the numbers did not reach us",
        experiment=NAME,
        statistic=Difference(ranked("diffureason"), ranked("staged")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-intent",
        paper=DIFFUREASON,
        chapter=8,
        claim="Intent is modelled as a distribution: the spread of sampled intents rises with the true entropy of the "
        "user's next topic.",
        paper_value=None,
        paper_setting="stated; nobody but a simulated world knows the entropy. Spearman's correlation over test cases",
        experiment=NAME,
        statistic=Cell("diffureason, sasrec", "topic/spread", WORLD, "intent"),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-intent-softmax",
        paper=BOOK,
        chapter=8,
        claim="And it tells more about that entropy than the softmax of the backbone by itself does.",
        paper_value=None,
        paper_setting="not in what reached us: every recommender with a softmax says how sure it is",
        experiment=NAME,
        statistic=Difference(
            Cell("diffureason, sasrec", "topic/spread", WORLD, "intent"),
            Cell("backbone, sasrec", "topic/softmax", WORLD, "intent"),
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-forks-spread",
        paper=BOOK,
        chapter=8,
        claim="Where the next item has one to eight modes, the spread of sampled intents follows the true entropy: a "
        "correlation over the number of modes of at least .8.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Correlation(fork("diffureason", "spread"), fork("diffureason", "entropy")),
        direction=">",
        threshold=0.8,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-forks-softmax",
        paper=BOOK,
        chapter=8,
        claim="The backbone's softmax knows it as well: a correlation of its entropy with the true one above .95.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Correlation(fork("backbone", "softmax"), fork("backbone", "entropy")),
        direction=">",
        threshold=0.95,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-forks-modes",
        paper=BOOK,
        chapter=8,
        claim="Samples are intents, not compromises: at four ways and at eight a sample gives more than half of its "
        "probability to one cluster.",
        paper_value=None,
        paper_setting="not in what reached us. A compromise between m clusters gives each 1 / m",
        experiment=NAME,
        statistic=Least((fork("diffureason", "modes/decided", 4), fork("diffureason", "modes/decided", 8))),
        direction=">",
        threshold=0.5,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-forks-found",
        paper=BOOK,
        chapter=8,
        claim="Thirty-two samples find at least three quarters of four modes and more.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Least((fork("diffureason", "modes/found", 4), fork("diffureason", "modes/found", 8))),
        direction=">",
        threshold=0.75,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-forks-collapse",
        paper=BOOK,
        chapter=8,
        claim="Ranking well costs diversity: a cross-entropy of the served intent leaves fewer of eight modes than one "
        "of the guess from the noisy target.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Difference(fork("teacher-forced", "modes/found", 8), fork("diffuse", "modes/found", 8)),
        direction=">",
        threshold=0.1,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-mixture",
        paper=BOOK,
        chapter=8,
        claim="Sixteen samples rank better by the mean of their probabilities than by their mean, which undoes the "
        "modes (in the ad world, from pure noise).",
        paper_value=None,
        paper_setting="not in what reached us",
        experiment=NAME,
        statistic=Difference(
            Cell("diffureason, sasrec", "mixture/ndcg@10", WORLD, "pure noise, samples", 16),
            Cell("diffureason, sasrec", "mean/ndcg@10", WORLD, "pure noise, samples", 16),
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-samples",
        paper=BOOK,
        chapter=8,
        claim="Drawing pays: sixteen samples, by the mean of their probabilities, rank better than the mean path.",
        paper_value=None,
        paper_setting="not in what reached us",
        experiment=NAME,
        statistic=Difference(
            Cell("diffureason, sasrec", "mixture/ndcg@10", WORLD, "samples", 16), ranked("diffureason")
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-variants",
        paper=BOOK,
        chapter=8,
        claim="The chain is the better policy: GRPO over chains (A) ranks better than over items (B).",
        paper_value=None,
        paper_setting="which of them the paper has did not reach us; single runs had been seen",
        experiment=NAME,
        statistic=Difference(ranked("diffureason"), ranked("diffureason B")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-variants-noise",
        paper=BOOK,
        chapter=8,
        claim="But B's gradient has less noise: two draws of it agree better about the direction.",
        paper_value=None,
        paper_setting="not in what reached us",
        experiment=NAME,
        statistic=Difference(
            Cell("diffureason, sasrec", "agreement/B", WORLD, "gradient"),
            Cell("diffureason, sasrec", "agreement/A", WORLD, "gradient"),
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-cut",
        paper=BOOK,
        chapter=8,
        claim="With the reward cut at ten, at least a quarter of the groups of a trained model have nothing to learn.",
        paper_value=None,
        paper_setting="not in what reached us",
        experiment=NAME,
        statistic=Cell("diffureason, sasrec", "no lesson/cut", WORLD, "gradient"),
        direction=">",
        threshold=0.25,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-latency",
        paper=BOOK,
        chapter=8,
        claim="Two thoughts and five steps at most double the time of a request.",
        paper_value=None,
        paper_setting="an online system has to; no number reached us. Here 50 items of history, 5,000 to rank",
        experiment=NAME,
        statistic=Ratio(request("diffureason", 5), request("think", 0)),
        direction="<",
        threshold=2.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch08-latency-deeper",
        paper=BOOK,
        chapter=8,
        claim="Thinking is cheaper than a deeper network with as many blocks, because it computes one place only.",
        paper_value=None,
        paper_setting="follows from keeping keys and values",
        experiment=NAME,
        statistic=Ratio(request("think", 8), request("deeper", 8)),
        direction="<",
        threshold=1.0,
        fixed=FIXED,
    ),
)
