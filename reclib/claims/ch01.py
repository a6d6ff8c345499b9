"""Claims of chapter 01, *An ad world with known answers*.

Experiment `01_ad_world`. Arms: popularity, transitions, itemknn, and `data` for statistics of a log itself.
Settings: "" is leave-one-out with full ranking; "sampled negatives" ranks the target among x uniformly drawn items
(drawn anew for each seed); "last pair ascends" and "last pair descends" keep the test users whose test item has the
larger, or the smaller, product code than their validation item.
"""

from reclib.ledger import Cell, Claim, Difference, Least, Ratio

NAME, FIXED = "01_ad_world", "2026-11-22"
BEAUTY, ML1M, SMALL, WORLD = "amazon2014-beauty", "movielens-1m", "movielens-small", "adworld"
RECALL, NDCG = "test/recall@10", "test/ndcg@10"
SAMPLED = "sampled negatives"
FUTURE = "test/future@10"  # share of top-10 lists with an item that nobody had touched before the test event


def sampled(arm: str, metric: str, dataset: str) -> Cell:
    """The same measurement with the target ranked among 100 sampled items."""
    return Cell(arm, metric, dataset, SAMPLED, 100)


CLAIMS = (
    Claim(
        id="ch01-sampled-metrics-reorder",
        paper="Krichene & Rendle (2020)",
        chapter=1,
        claim="Ranking against 100 sampled items can turn the order of two methods round: on Amazon Beauty counting "
        "transitions is the better one over the whole catalogue, item kNN against the sample.",
        paper_value=None,
        paper_setting="proved for expected metrics, and shown on recommenders for MovieLens",
        experiment=NAME,
        statistic=Least(
            (
                Difference(Cell("transitions", NDCG, BEAUTY), Cell("itemknn", NDCG, BEAUTY)),
                Difference(sampled("itemknn", NDCG, BEAUTY), sampled("transitions", NDCG, BEAUTY)),
            )
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-sampled-metrics-inflate",
        paper="Krichene & Rendle (2020)",
        chapter=1,
        claim="A metric against 100 sampled items does not estimate the metric over all items: Recall@10 of counting "
        "on MovieLens-1M more than doubles.",
        paper_value=None,
        paper_setting="not a figure of the paper; public code reports HR@10 .82 for SASRec against 100 negatives, .25 "
        "over all items",
        experiment=NAME,
        statistic=Ratio(sampled("transitions", RECALL, ML1M), Cell("transitions", RECALL, ML1M)),
        direction=">",
        threshold=2.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-sampled-metrics-blur",
        paper="Krichene & Rendle (2020)",
        chapter=1,
        claim="The fewer items are sampled, the less a metric tells methods apart: on MovieLens-1M the ratio of "
        "NDCG@10, counting over popularity, shrinks to less than half against 100 sampled items.",
        paper_value=None,
        paper_setting="proved: with ever fewer samples every metric becomes the AUC",
        experiment=NAME,
        statistic=Ratio(
            Ratio(sampled("transitions", NDCG, ML1M), sampled("popularity", NDCG, ML1M)),
            Ratio(Cell("transitions", NDCG, ML1M), Cell("popularity", NDCG, ML1M)),
        ),
        direction="<",
        threshold=0.5,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-leave-one-out-recommends-the-future",
        paper="Ji, Sun, Zhang & Li (2023)",
        chapter=1,
        claim="Under leave-one-out, models recommend items that did not exist yet: on MovieLens (small) more than one "
        "list in a hundred, for popularity, counting and item kNN alike.",
        paper_value=None,
        paper_setting="BPR, NeuMF, SASRec and LightGCN on MovieLens-25M, Yelp, Amazon-music and Amazon-electronic: all "
        "do",
        experiment=NAME,
        statistic=Least(tuple(Cell(arm, FUTURE, SMALL) for arm in ("popularity", "transitions", "itemknn"))),
        direction=">",
        threshold=0.01,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-counting-above-tiger",
        paper="TIGER (Rajput et al., 2023)",
        chapter=1,
        claim="Counting what followed the last item is already above the published TIGER: Recall@10 on Amazon Beauty "
        "exceeds .0648.",
        paper_value=None,
        paper_setting="table 1: TIGER Recall@10 .0648; the paper has no counting baseline; .0668 was measured on this "
        "file before",
        experiment=NAME,
        statistic=Cell("transitions", RECALL, BEAUTY),
        direction=">",
        threshold=0.0648,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-counting-above-tiger-ndcg",
        paper="TIGER (Rajput et al., 2023)",
        chapter=1,
        claim="The same for NDCG@10: counting on Amazon Beauty exceeds .0384.",
        paper_value=None,
        paper_setting="table 1: TIGER NDCG@10 .0384; the paper has no counting baseline; .0439 was measured on this "
        "file before",
        experiment=NAME,
        statistic=Cell("transitions", NDCG, BEAUTY),
        direction=">",
        threshold=0.0384,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-beauty-order-is-product-code",
        paper="Day order in Amazon data",
        chapter=1,
        claim="Amazon sequences have days, not times, and the order inside a day is that of the product code: in more "
        "than 60 % of the Beauty users the test item has the larger code (without ties it would be half).",
        paper_value=0.71,
        paper_setting="a property of the file that most papers use, not stated by them; counted on it before: .71",
        experiment=NAME,
        statistic=Cell("data", "last_pair_ascends", BEAUTY),
        direction=">",
        threshold=0.6,
        fixed=FIXED,
        seeds=1,
    ),
    Claim(
        id="ch01-beauty-order-can-be-learnt",
        paper="Day order in Amazon data",
        chapter=1,
        claim="A method profits from that order: Recall@10 of counting is at least 1.5 times as high for users whose "
        "last pair ascends by product code as for the others.",
        paper_value=None,
        paper_setting="not measured in a paper we know",
        experiment=NAME,
        statistic=Ratio(
            Cell("transitions", RECALL, BEAUTY, "last pair ascends"),
            Cell("transitions", RECALL, BEAUTY, "last pair descends"),
        ),
        direction=">",
        threshold=1.5,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-shuffled-ties-cost",
        paper="Day order in Amazon data",
        chapter=1,
        claim="Shuffling the events inside a day costs SASRec accuracy on Amazon Beauty.",
        paper_value=-0.0038,
        paper_setting="a public log, Recall@10: .0859 with shuffled ties (3 seeds), .0897 in the file's order",
        experiment=NAME,
        statistic=None,
        direction="<",
        threshold=0.0,
        fixed=FIXED,
        not_testable="the sequences at hand have no dates, so ties cannot be told from true order",
    ),
    Claim(
        id="ch01-world-popularity-is-weak",
        paper="This book: the ad world",
        chapter=1,
        claim="In the ad world popularity alone is a weak recommender: NDCG@10 at most .03.",
        paper_value=None,
        paper_setting="a property the world was calibrated to have",
        experiment=NAME,
        statistic=Cell("popularity", NDCG, WORLD),
        direction="<",
        threshold=0.03,
        fixed=FIXED,
    ),
    Claim(
        id="ch01-world-order-matters",
        paper="This book: the ad world",
        chapter=1,
        claim="In the ad world, NDCG@10 of counting what followed the last ad is at least 5 times that of popularity.",
        paper_value=None,
        paper_setting="a property the world was calibrated to have",
        experiment=NAME,
        statistic=Ratio(Cell("transitions", NDCG, WORLD), Cell("popularity", NDCG, WORLD)),
        direction=">",
        threshold=5.0,
        fixed=FIXED,
    ),
)
