"""Claims of chapter 02, *Sequential recommenders*.

Experiment `02_sequential`. Arms: popularity, transitions, itemknn, gru4rec, sasrec (full softmax), sasrec_bce1 (BCE,
one negative), sasrec_gbce (gBCE, 256 negatives, t = 0.75), hstu (full softmax; position and time bias where the log
has time stamps, position bias where it has only an order), hstu_position (position bias only, on logs with time
stamps), oracle (what the ad world itself knows). `hstu`, `hstu_position` and `sasrec_gbce` are as in
the papers. Arms with `scaled` or `centred` in their names are the book's changes, made after the papers' forms had been
seen to do badly; claims about them carry the later date. Leave-one-out, full ranking; setting "" everywhere.

The thresholds on the two Amazon sets were missed by a first recipe (β₂ = .98; Beauty Recall@10 .069, level with
counting, Industrial & Scientific NDCG@10 .0736, one seed each) and are judged on the second (β₂ = .999), which was
found on validation: `SECOND_RECIPE`. The words of three claims were narrowed later to what their test shows; tests
and thresholds are as they were. On Beauty, `sasrec_bce1` is undertrained: a public re-run reaches Recall@10 .0550.
"""

from reclib.ledger import Cell, Claim, Difference, Ratio

NAME, FIXED = "02_sequential", "2026-11-22"
AFTER_LOOKING = "2026-11-23"  # claims about our own changes, written when the papers' forms had been seen to fail
ML1M, BEAUTY, SCIENTIFIC, WORLD = "movielens-1m", "amazon2014-beauty", "amazon2018-scientific", "adworld"
RECALL, NDCG = "test/recall@10", "test/ndcg@10"
REAL = 3  # seeds of the runs on real data
SECOND_RECIPE = "; here by our second recipe, the first one (AdamW's β₂ = .98, one seed) had missed it: "

KV = "Klenitskiy & Vasilev (2023)"
GSASREC = "gSASRec (Petrov & Macdonald, 2023)"
SASREC = "SASRec (Kang & McAuley, 2018)"
HSTU = "HSTU (Zhai et al., 2024)"
HSTU_RECTOOLS = "HSTU in RecTools (its tutorial)"
FLOOR = "This book: a floor from earlier runs"
BOOK = "This book: the ad world"


def difference(left: str, right: str, metric: str, dataset: str) -> Difference:
    """One arm minus another."""
    return Difference(Cell(left, metric, dataset), Cell(right, metric, dataset))


def ratio(left: str, right: str, metric: str, dataset: str) -> Ratio:
    """One arm over another."""
    return Ratio(Cell(left, metric, dataset), Cell(right, metric, dataset))


CLAIMS = (
    Claim(
        id="ch02-full-softmax-beats-one-negative",
        paper=KV,
        chapter=2,
        claim="The loss matters more than the network: trained with full softmax, SASRec is far above SASRec trained "
        "with one negative.",
        paper_value=0.0480,
        paper_setting="MovieLens-1M, NDCG@10 .1821 against .1341",
        experiment=NAME,
        statistic=difference("sasrec", "sasrec_bce1", NDCG, ML1M),
        direction=">",
        threshold=0.03,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-movielens-ndcg",
        paper=KV,
        chapter=2,
        claim="SASRec with full softmax reaches the published NDCG@10 on MovieLens-1M (at least .178).",
        paper_value=0.1821,
        paper_setting="MovieLens-1M; an independent implementation (RecTools) .1779",
        experiment=NAME,
        statistic=Cell("sasrec", NDCG, ML1M),
        direction=">",
        threshold=0.178,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-movielens-recall",
        paper=KV,
        chapter=2,
        claim="SASRec with full softmax reaches the published Recall@10 on MovieLens-1M (at least .305).",
        paper_value=0.3152,
        paper_setting="MovieLens-1M; an independent implementation (RecTools) .3058",
        experiment=NAME,
        statistic=Cell("sasrec", RECALL, ML1M),
        direction=">",
        threshold=0.305,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-above-bert4rec",
        paper=KV,
        chapter=2,
        claim="With the same loss, SASRec is better than BERT4Rec.",
        paper_value=0.0284,
        paper_setting="MovieLens-1M, NDCG@10 .1821 against .1537",
        experiment=NAME,
        statistic=None,
        direction=">",
        threshold=0.0,
        fixed=FIXED,
        not_testable="the book has no BERT4Rec",
    ),
    Claim(
        id="ch02-sasrec-beauty-recall",
        paper="The SASRec row that papers copy",
        chapter=2,
        claim="The Beauty row for SASRec in S3-Rec, P5 and TIGER (Recall@10 .0605) undersells it: with full softmax it "
        "reaches at least .086.",
        paper_value=0.0897,
        paper_setting=f"a public log, Recall@10 .0897 in the file's order, .0859 with ties shuffled{SECOND_RECIPE}.069",
        experiment=NAME,
        statistic=Cell("sasrec", RECALL, BEAUTY),
        direction=">",
        threshold=0.086,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-beauty-ndcg",
        paper="The SASRec row that papers copy",
        chapter=2,
        claim="The same for NDCG@10: the copied row says .0318, with full softmax SASRec reaches at least .050.",
        paper_value=0.0539,
        paper_setting="a public log, NDCG@10 .0539 in the file's order, .0503 with ties shuffled; here by our second "
        "recipe, see the claim on Recall@10",
        experiment=NAME,
        statistic=Cell("sasrec", NDCG, BEAUTY),
        direction=">",
        threshold=0.050,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-one-negative-below-counting",
        paper="The SASRec row that papers copy",
        chapter=2,
        claim="With one negative SASRec is below counting: on Beauty, counting what followed the last item has the "
        "higher Recall@10.",
        paper_value=None,
        paper_setting="Recall@10 of counting .0668, of SASRec with one negative .0550 in a public re-run, .0605 "
        "copied; here its training is too short to reach that",
        experiment=NAME,
        statistic=difference("transitions", "sasrec_bce1", RECALL, BEAUTY),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-gbce-beats-one-negative",
        paper=GSASREC,
        chapter=2,
        claim="gBCE with t = 0.75 and 256 negatives is better than one negative.",
        paper_value=0.0467,
        paper_setting="MovieLens-1M, NDCG@10 .1726 against .1259, both from the authors' code; here on Industrial & "
        "Scientific",
        experiment=NAME,
        statistic=difference("sasrec_gbce", "sasrec_bce1", NDCG, SCIENTIFIC),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-gbce-recovers-full-softmax",
        paper=GSASREC,
        chapter=2,
        claim="gBCE comes close to full softmax without scoring the catalogue in training: at least 93 % of its "
        "NDCG@10.",
        paper_value=None,
        paper_setting="MovieLens-1M across sources: gSASRec .1726, full softmax .1779 (RecTools), .1821 (Klenitskiy & "
        "Vasilev)",
        experiment=NAME,
        statistic=ratio("sasrec_gbce", "sasrec", NDCG, SCIENTIFIC),
        direction=">",
        threshold=0.93,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-above-gru4rec",
        paper=SASREC,
        chapter=2,
        claim="Self-attention beats recurrence: SASRec is better than GRU4Rec, here with the same loss for both.",
        paper_value=None,
        paper_setting="MovieLens-1M against 100 sampled negatives, NDCG@10 .5905 against .5513 (GRU4Rec+), each with "
        "its own loss",
        experiment=NAME,
        statistic=difference("sasrec", "gru4rec", NDCG, SCIENTIFIC),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-above-counting-beauty",
        paper=SASREC,
        chapter=2,
        claim="Long histories beat the last item, on sparse data too: SASRec is better than first-order counting on "
        "Beauty.",
        paper_value=None,
        paper_setting="Beauty (another preprocessing) against 100 sampled negatives; its first-order models are "
        "learnt; here by our second recipe, with the first (one seed) it was level with counting",
        experiment=NAME,
        statistic=difference("sasrec", "transitions", NDCG, BEAUTY),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-scientific-recall",
        paper=FLOOR,
        chapter=2,
        claim="On Industrial & Scientific, where counting is strong, SASRec reaches Recall@10 of at least .103.",
        paper_value=None,
        paper_setting="not in the paper; counting .0902, and .1047 in one run of ours before this book",
        experiment=NAME,
        statistic=Cell("sasrec", RECALL, SCIENTIFIC),
        direction=">",
        threshold=0.103,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-sasrec-scientific-ndcg",
        paper=FLOOR,
        chapter=2,
        claim="On Industrial & Scientific, SASRec reaches NDCG@10 of at least .074.",
        paper_value=None,
        paper_setting="not in the paper; counting .0686, and .0752 in one run of ours before this book"
        f"{SECOND_RECIPE}.0736",
        experiment=NAME,
        statistic=Cell("sasrec", NDCG, SCIENTIFIC),
        direction=">",
        threshold=0.074,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-hstu-movielens-ndcg",
        paper=HSTU_RECTOOLS,
        chapter=2,
        claim="HSTU with position bias only reaches NDCG@10 of at least .172 on MovieLens-1M.",
        paper_value=0.1718,
        paper_setting="MovieLens-1M, position bias only, in RecTools; .1720 in the authors' code with time bias",
        experiment=NAME,
        statistic=Cell("hstu", NDCG, ML1M),
        direction=">",
        threshold=0.172,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-hstu-movielens-recall",
        paper=HSTU_RECTOOLS,
        chapter=2,
        claim="HSTU with position bias only reaches Recall@10 of at least .302 on MovieLens-1M.",
        paper_value=0.3023,
        paper_setting="MovieLens-1M, position bias only, in RecTools; .3097 in the authors' code with time bias",
        experiment=NAME,
        statistic=Cell("hstu", RECALL, ML1M),
        direction=">",
        threshold=0.302,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-hstu-above-sasrec-movielens",
        paper=HSTU,
        chapter=2,
        claim="HSTU is better than SASRec on MovieLens-1M, here with full softmax for both and without time stamps.",
        paper_value=0.0117,
        paper_setting="MovieLens-1M, NDCG@10 .1720 against .1603, sampled softmax for both, time bias",
        experiment=NAME,
        statistic=difference("hstu", "sasrec", NDCG, ML1M),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
        seeds=REAL,
    ),
    Claim(
        id="ch02-hstu-above-sasrec-world",
        paper=HSTU,
        chapter=2,
        claim="Where the gaps between events carry information, as in the ad world, HSTU is better than SASRec.",
        paper_value=None,
        paper_setting="not the world, but MovieLens-1M: NDCG@10 .1720 against .1603, sampled softmax for both",
        experiment=NAME,
        statistic=difference("hstu", "sasrec", NDCG, WORLD),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch02-hstu-time-bias",
        paper=HSTU_RECTOOLS,
        chapter=2,
        claim="The gain comes from the time bias: with it, HSTU is better than with position bias only.",
        paper_value=0.0162,
        paper_setting="MovieLens-1M in RecTools, NDCG@10 .1880 with both biases against .1718 with position bias",
        experiment=NAME,
        statistic=difference("hstu", "hstu_position", NDCG, WORLD),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch02-gbce-centred-recovers-full-softmax",
        paper=BOOK,
        chapter=2,
        claim="gBCE with a constant added to all scores (our change, made after the plain loss had failed in the ad "
        "world) comes close to full softmax: at least 93 % of its NDCG@10.",
        paper_value=None,
        paper_setting="not in the paper",
        experiment=NAME,
        statistic=ratio("sasrec_gbce_centred", "sasrec", NDCG, SCIENTIFIC),
        direction=">",
        threshold=0.93,
        fixed=AFTER_LOOKING,
        seeds=REAL,
    ),
    Claim(
        id="ch02-hstu-scaled-above-sasrec-world",
        paper=BOOK,
        chapter=2,
        claim="With q·k divided by the root of its width (our change, made after the paper's form was level with "
        "SASRec), HSTU is better than SASRec in the ad world.",
        paper_value=None,
        paper_setting="a property the world's clock was calibrated to have, on seed 0",
        experiment=NAME,
        statistic=difference("hstu_scaled", "sasrec", NDCG, WORLD),
        direction=">",
        threshold=0.0,
        fixed=AFTER_LOOKING,
    ),
    Claim(
        id="ch02-hstu-scaled-time-bias",
        paper=BOOK,
        chapter=2,
        claim="So scaled, HSTU is better with the time bias than with position bias only.",
        paper_value=None,
        paper_setting="a property the world's clock was calibrated to have, on seed 0",
        experiment=NAME,
        statistic=difference("hstu_scaled", "hstu_scaled_position", NDCG, WORLD),
        direction=">",
        threshold=0.0,
        fixed=AFTER_LOOKING,
    ),
    Claim(
        id="ch02-world-sasrec-above-counting",
        paper=BOOK,
        chapter=2,
        claim="The ad world separates methods: NDCG@10 of SASRec is at least 1.4 times that of counting.",
        paper_value=None,
        paper_setting="a property the world was calibrated to have",
        experiment=NAME,
        statistic=ratio("sasrec", "transitions", NDCG, WORLD),
        direction=">",
        threshold=1.4,
        fixed=FIXED,
    ),
    Claim(
        id="ch02-world-oracle-above-sasrec",
        paper=BOOK,
        chapter=2,
        claim="The ad world leaves room: NDCG@10 of the oracle is at least 1.2 times that of SASRec.",
        paper_value=None,
        paper_setting="a property the world was calibrated to have",
        experiment=NAME,
        statistic=ratio("oracle", "sasrec", NDCG, WORLD),
        direction=">",
        threshold=1.2,
        fixed=FIXED,
    ),
)
