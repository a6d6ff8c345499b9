"""Ads: what is written, what is hidden, and the laws both are drawn from."""

import numpy as np
import pytest
from scipy import stats

from reclib.world import AdWorld, AdWorldConfig, words

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def many():
    """20,000 ads, so that moments are sharp. Nobody has to click them."""
    return AdWorld(AdWorldConfig(n_items=20_000, n_users=10)).catalogue


def test_the_tree_has_three_levels(book):
    table = book.catalogue.table
    assert table["topic"].nunique() == 48
    assert table["sector"].nunique() == 24
    assert table["industry"].nunique() == 8
    # Each topic lies in one sector, each sector in one industry.
    assert table.groupby("topic")["sector"].nunique().max() == 1
    assert table.groupby("sector")["industry"].nunique().max() == 1
    for name, leaf in table[["industry", "sector", "topic"]].drop_duplicates().groupby("industry"):
        for _, row in leaf.iterrows():
            assert row["topic"] in words.TREE[name][row["sector"]]


def test_topic_words_are_unambiguous():
    topics = [t for sectors in words.TREE.values() for leaves in sectors.values() for t in leaves]
    assert len(set(topics)) == 96


def test_no_topic_is_empty_and_every_ad_is_on_one_shelf(book):
    shelves = book.catalogue.topic_items
    assert (shelves[:, 0] > 0).all()
    assert sorted(shelves[shelves > 0]) == list(range(1, 1201))
    for topic, shelf in enumerate(shelves):
        assert (book.catalogue.topic[shelf[shelf > 0]] == topic).all()


def test_the_text_states_every_visible_attribute(book):
    for row in book.catalogue.table.itertuples():
        text = f"{row.title} {row.description}".split()
        assert row.topic in text
        assert row.brand in text
        assert {row.style, row.selling_point, row.price_band, row.brand_tier} <= set(text)


def test_only_the_summary_states_persona_and_appeal(book):
    c, hidden = book.catalogue, set(words.PERSONAS) | set(words.APPEALS)
    raw = " ".join([*c.table["title"], *c.table["description"], *c.table.astype(str).to_numpy().ravel()])
    assert not hidden & set(raw.split())
    for item in range(1, c.n_items + 1):
        said = set(c.summary[item].split())
        assert said & hidden == {words.PERSONAS[c.persona[item]], words.APPEALS[c.appeal[item]]}


def test_hidden_attributes_do_not_follow_from_visible_ones(many):
    """Persona and appeal are independent of topic and selling point: no reader of the raw text can guess them."""
    for hidden in (many.persona, many.appeal, many.community):
        for seen in (many.topic, many.selling_point):
            table = np.histogram2d(hidden[1:], seen[1:], bins=[hidden.max() + 1, seen.max() + 1])[0]
            assert stats.chi2_contingency(table).pvalue > 1e-4


def test_words_suit_a_word_level_language_model(book):
    profiles = {word for user in range(1000) for word in book.users.profile(user).split()}
    vocabulary = set(book.catalogue.vocabulary()) | profiles
    assert 150 < len(vocabulary) < 1000
    assert all(word == word.lower() for word in vocabulary)
    assert max(len(text.split()) for text in book.catalogue.summary) < 25


def test_exposure_is_log_normal_with_the_asked_spread(many):
    assert many.exposure.sum() == pytest.approx(1)
    assert many.exposure[0] == 0
    log = np.log(many.exposure[1:])
    # The standard error of a standard deviation from n normals is σ / √(2n) = 0.0035.
    assert log.std() == pytest.approx(0.7, abs=4 * 0.7 / np.sqrt(2 * 20_000))
    assert stats.kstest((log - log.mean()) / log.std(), "norm").pvalue > 1e-3
    # Half of its variance is quality.
    assert np.corrcoef(log, many.quality[1:])[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_taste_is_standard_normal_and_the_style_word_names_its_largest_entry(many):
    assert many.vector[1:].mean() == pytest.approx(0, abs=0.02)
    assert np.cov(many.vector[1:].T) == pytest.approx(np.eye(many.vector.shape[1]), abs=0.05)
    assert (many.table["style"].to_numpy() == np.array(words.STYLES)[many.vector[1:].argmax(1)]).all()


def test_the_image_tells_topics_and_part_of_the_taste(many):
    topic, image = many.topic[1:], many.image[1:]
    centres = np.stack([image[topic == z].mean(0) for z in range(48)])
    nearest = ((image[:2000, None] - centres) ** 2).sum(2).argmin(1)
    assert (nearest == topic[:2000]).mean() > 0.85
    rest = image - centres[topic]
    explained, *_ = np.linalg.lstsq(rest, many.vector[1:], rcond=None)
    r2 = 1 - ((many.vector[1:] - rest @ explained) ** 2).sum() / (many.vector[1:] ** 2).sum()
    assert 0.5 < r2 < 0.99


def test_bids_are_log_normal(many):
    log = np.log(many.bid[1:])
    # The industry's half of the variance has only 8 draws, so its mean and spread move a lot between seeds;
    # inside an industry the law is N(·, σ²/2), rounded to whole cents.
    industry = many.tree.industry[many.topic[1:]]
    within = np.concatenate([log[industry == k] - log[industry == k].mean() for k in range(8)])
    assert within.std() == pytest.approx(0.6 * np.sqrt(0.5), rel=0.03)
    assert np.median(many.bid[1:]) == pytest.approx(60, rel=0.5)
    assert (many.bid[1:] == np.round(many.bid[1:])).all()
    assert many.bid[1:].min() >= 1


def test_advertisers_work_in_one_sector_and_own_their_campaigns(book):
    table = book.catalogue.table
    assert table.groupby("advertiser_id")["sector"].nunique().max() == 1
    assert table.groupby("campaign_id")["advertiser_id"].nunique().max() == 1
    assert table.groupby("advertiser_id")[["brand", "brand_tier"]].nunique().max().max() == 1


def test_complements_are_other_topics_mostly_of_the_same_industry(book):
    tree = book.catalogue.tree
    k = tree.complements.shape[1]
    assert (tree.complements != np.arange(48)[:, None]).all()
    assert all(len(set(row)) == k for row in tree.complements)
    # e² for each of the 5 others of the industry, 1 for each of the 42 elsewhere: 0.47 of first draws.
    same = (tree.industry[tree.complements] == tree.industry[:, None]).mean()
    assert 0.35 < same < 0.65
    assert tree.complement_share == pytest.approx((1 / np.arange(1, k + 1)) / (1 / np.arange(1, k + 1)).sum())
