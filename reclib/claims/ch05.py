"""Claims of chapter 05, *UniSID*.

Experiment `05_unisid`; its module says what arms and settings are. Setting "codes": what an arm's codes are worth by
themselves; `tiger_decoder`: chapter 04's generator trained on them. Setting "": SASRec and counting, copied from the
record of chapter 04, and so are the generators on `rqkmeans`, `rqvae` and others' codes.
"""

from reclib.ledger import Cell, Claim, Difference, Ratio

NAME, FIXED = "05_unisid", "2026-11-23"
SCIENTIFIC, WORLD = "amazon2018-scientific", "adworld"
DECODER = "tiger_decoder"
CONTROL = "rqkmeans, pairs and categories"  # told what UniSID is told, and quantised afterwards

UNISID = "UniSID (Jiang et al., 2026)"
BOOK = "This book: chapter 05"


def codes(arm: str, metric: str, dataset: str = SCIENTIFIC) -> Cell:
    """A property of an arm's codes."""
    return Cell(arm, metric, dataset, "codes")


def v(arm: str, level: int, dataset: str = SCIENTIFIC) -> Cell:
    """V-measure against the finest category, as in the paper."""
    return codes(arm, f"v_finest@{level}", dataset)


def ranked(arm: str, metric: str = "test/ndcg@10", dataset: str = SCIENTIFIC) -> Cell:
    """The generator on an arm's codes."""
    return Cell(arm, metric, dataset, DECODER)


CLAIMS = (
    Claim(
        id="ch05-v-measure",
        paper=UNISID,
        chapter=5,
        claim="UniSID's codes follow the categories better than RQ-KMeans' (V-measure of the first level against the "
        "finest category).",
        paper_value=0.0128,
        paper_setting="Ad-60W, private: .7015 against .6887; RQ-VAE .6769",
        experiment=NAME,
        statistic=Difference(v("unisid", 1), v("rqkmeans", 1)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-v-measure-fair",
        paper=BOOK,
        chapter=5,
        claim="The same against RQ-KMeans on an embedding that was told the categories too.",
        paper_value=None,
        paper_setting="not compared by the paper: its categories are both training positives and the measure",
        experiment=NAME,
        statistic=Difference(v("unisid", 1), v(CONTROL, 1)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-next-ad",
        paper=UNISID,
        chapter=5,
        claim="Next-ad recommendation: with UniSID's codes the same generator has a Recall@10 at least 3 % above that "
        "with RQ-KMeans'.",
        paper_value=1.0401,
        paper_setting="Ad-100W, private: HR@10 .1167 against .1122; here in the ad world",
        experiment=NAME,
        statistic=Ratio(ranked("unisid", "test/recall@10", WORLD), ranked("rqkmeans", "test/recall@10", WORLD)),
        direction=">",
        threshold=1.03,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-next-ad-fair",
        paper=BOOK,
        chapter=5,
        claim="The same against the fair control.",
        paper_value=None,
        paper_setting="not compared by the paper",
        experiment=NAME,
        statistic=Ratio(ranked("unisid", "test/recall@10", WORLD), ranked(CONTROL, "test/recall@10", WORLD)),
        direction=">",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-public",
        paper=UNISID,
        chapter=5,
        claim="On public data too: above the same generator on LETTER's codes.",
        paper_value=0.0042,
        paper_setting="Amazon Beauty, NDCG@10 .0406 against .0364 (TIGER .0331); here on Industrial & Scientific, "
        "without pictures",
        experiment=NAME,
        statistic=Difference(ranked("unisid"), ranked("their letter")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-public-rqvae",
        paper=UNISID,
        chapter=5,
        claim="And above the same generator on RQ-VAE's codes, as in TIGER.",
        paper_value=0.0075,
        paper_setting="Amazon Beauty, NDCG@10 .0406 against .0331; here on Industrial & Scientific, without pictures",
        experiment=NAME,
        statistic=Difference(ranked("unisid"), ranked("rqvae")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-public-sasrec",
        paper=UNISID,
        chapter=5,
        claim="And above SASRec, here with full softmax.",
        paper_value=0.0093,
        paper_setting="Amazon Beauty, NDCG@10 .0406 against a copied row's .0313; here on Industrial & Scientific",
        experiment=NAME,
        statistic=Difference(ranked("unisid"), Cell("sasrec", "test/ndcg@10", SCIENTIFIC)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-retrieval",
        paper=UNISID,
        chapter=5,
        claim="Its embedding finds the ad that belongs to another (1 of 1,000) far better than an embedding nobody has "
        "trained on these ads: Recall@1 at least 1.4 times as high.",
        paper_value=1.455,
        paper_setting="Ad-60W, private: R@1 .4710 against .3238 of VLM2Vec2-3B; here against text vectors",
        experiment=NAME,
        statistic=Ratio(codes("unisid", "retrieval/recall@1"), codes("rqkmeans", "retrieval/recall@1")),
        direction=">",
        threshold=1.4,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-retrieval-fair",
        paper=BOOK,
        chapter=5,
        claim="The same against an embedding trained on the same pairs and nothing else.",
        paper_value=None,
        paper_setting="the paper states that joint training beats training for one task; we have no numbers",
        experiment=NAME,
        statistic=Ratio(codes("unisid", "retrieval/recall@1"), codes("rqkmeans, pairs", "retrieval/recall@1")),
        direction=">",
        threshold=1.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-granularity",
        paper=UNISID,
        chapter=5,
        claim="Category positives at every granularity are what improves the first level.",
        paper_value=0.0949,
        paper_setting="Ad-60W: V-measure of level 1 .5889 with pairs only, .6838 with category positives",
        experiment=NAME,
        statistic=Difference(v("unisid, no summary", 1), v("unisid, pairs only", 1)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-reconstruction",
        paper=UNISID,
        chapter=5,
        claim="Writing the attributes back helps the codes.",
        paper_value=0.0161,
        paper_setting="Ad-60W: V-measure of level 1 .6838 without, .6999 with",
        experiment=NAME,
        statistic=Difference(v("unisid, attributes", 1, WORLD), v("unisid, no summary", 1, WORLD)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-summary",
        paper=UNISID,
        chapter=5,
        claim="Writing a summary helps more than writing the attributes.",
        paper_value=0.0016,
        paper_setting="Ad-60W: V-measure of level 1 .7015 against .6999",
        experiment=NAME,
        statistic=Difference(v("unisid", 1, WORLD), v("unisid, attributes", 1, WORLD)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-summary-hidden",
        paper=BOOK,
        chapter=5,
        claim="A summary that states what nothing else shows puts it into the codes: a linear model reads the audience "
        "persona off them better than without the summary.",
        paper_value=None,
        paper_setting="what the paper wants the summary for (audience, selling point); not measured there",
        experiment=NAME,
        statistic=Difference(
            codes("unisid", "probe/persona", WORLD), codes("unisid, no summary", "probe/persona", WORLD)
        ),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-joint",
        paper=UNISID,
        chapter=5,
        claim="Joint training beats training for the codes alone (V-measure of the first level).",
        paper_value=None,
        paper_setting="stated in the paper; we have no numbers",
        experiment=NAME,
        statistic=Difference(v("unisid", 1), v("unisid, codes only", 1)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-error",
        paper=UNISID,
        chapter=5,
        claim="Without a residual chain no error adds up: given all three codes, less of the text vector is left open "
        "than with RQ-KMeans on the same embedding's fair control.",
        paper_value=None,
        paper_setting="the paper's argument; not measured there",
        experiment=NAME,
        statistic=Difference(codes(CONTROL, "distortion@3"), codes("unisid", "distortion@3")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch05-collisions",
        paper=BOOK,
        chapter=5,
        claim="UniSID's codes collide more than those of RQ-KMeans on the fair control's embedding.",
        paper_value=None,
        paper_setting="the paper does not report collisions",
        experiment=NAME,
        statistic=Difference(codes("unisid", "collision_rate"), codes(CONTROL, "collision_rate")),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
)
