//! The words that decide what stands around nouns. English has few of them that matter here: what is none of these, and
//! has no ending of a verb, counts as a noun, so that no list of things is needed.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a word is, whatever stands around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Opens a noun phrase: articles, possessives, numbers.
    Article,
    /// Starts a place, a time or a comparison.
    Place,
    /// Where something goes, if an article follows ("up a hill").
    Direction,
    /// "of".
    Of,
    /// Joins things.
    And,
    /// Describes a noun.
    Adjective,
    /// What a noun before it does.
    Verb,
    /// A noun in spite of its ending.
    Noun,
    /// A noun that names the picture.
    Picture,
    /// A noun that counts or heaps others, before "of".
    Count,
    /// Any other word that is no noun.
    Other,
}

const ARTICLES: &str = "\
    a an the this these those some any each every no another both all my your his her its our their whose \
    one two three four five six seven eight nine ten eleven twelve dozen several many few multiple various numerous \
    countless single";

/// Prepositions, and what compares ("like a bear").
const PLACES: &str = "\
    in on at by near under over above below behind beside besides between among amongst across along around against \
    through throughout into onto inside outside within without from to toward towards upon beneath underneath amid amidst \
    before after during atop off close past beyond opposite next for about like as than via per while";

const JOINING: &str = "with and or plus & +";

const OTHERS: &str = "\
    who which that what there here it he she they we you i me him them us who's is are was were be been being am has have \
    had do does did can could will would shall should may might must not if then so too also just only even still very \
    really quite rather extremely incredibly away back together apart alone again ever never always often \
    when where because but nor yet made saying says said reading reads looks look seems seem whilst until since \
    forward backward upwards downwards ahead aloft outdoors indoors everywhere tonight today someone \
    somebody anyone anybody everyone everybody nobody something anything everything seen lit built taken drawn driven kept \
    lost found shown known given thrown left set spread cut bent";

const DIRECTIONS: &str = "up down out";

const ADJECTIVES: &str = "\
    red orange yellow green blue purple pink white black brown grey gray golden gold silver cyan magenta turquoise violet \
    crimson scarlet beige teal dark bright pale colorful colourful vivid big small large little tiny huge giant \
    gigantic enormous massive miniature tall short long wide narrow thin thick fat slim high low deep old young new ancient \
    modern vintage antique retro futuristic medieval rusty dusty dirty clean shiny glossy wet dry hot cold warm cool \
    frozen broken worn torn hidden open closed empty full heavy soft hard rough smooth sharp blurry sunny cloudy rainy \
    snowy foggy misty stormy windy icy sunlit moonlit lonely lovely friendly ugly silly beautiful pretty cute adorable \
    handsome happy sad angry scary spooky creepy mysterious magical serene peaceful calm quiet loud busy crowded wild \
    fluffy furry hairy wooden metallic woolen woollen cinematic realistic photorealistic abstract minimalist surreal dramatic epic majestic elegant fancy \
    simple plain fresh ripe rotten delicious good bad best nice great amazing stunning gorgeous famous rich poor brave \
    clever tired sleepy hungry dead alive real fake same different other such own whole half early late fast slow quick \
    solitary lone homeless tropical alpine arctic urban rural royal holy sacred electric digital transparent glowing \
    curly straight oval flat steep upright bare naked blonde blond american british french german \
    italian spanish chinese japanese indian african asian european victorian gothic baroque";

/// Words that are verbs after a noun; elsewhere they may be nouns ("a jump").
const VERBS: &str = "\
    sit sits sat stand stands stood lie lies lay lays run runs ran walk walks walked jump jumps leap leaps leapt fly flies \
    flew swim swims swam sleep sleeps slept eat eats ate drink drinks drank play plays dance dances sing sings sang read \
    write writes wrote hold holds held carry carries wear wears wore ride rides rode drive drives drove look watch watches \
    wait waits climb climbs float floats drift drifts rise rises fall falls fell grow grows grew shine shines shone \
    burn burns hang hangs hung lean leans rest rests howl howls roar roars bark barks meow meows chase chases hunt hunts \
    fight fights fought smile smiles laugh laughs cry cries hug hugs kiss kisses throw throws threw catch catches caught \
    kick kicks push pushes pull pulls paint paints cook cooks cross crosses enter enters leave cover covers \
    surround surrounds fill fills emerge emerges appear appears disappear disappears move moves turn turns spin spins \
    glide glides soar soars hover hovers graze grazes roam roams wander wanders crawl crawls crouch crouches perch perches \
    dive dives surf surfs sail sails sell sells buy buys bring brings take takes took give gives gave get gets got go goes \
    went come comes came make makes explode explodes erupt erupts crash crashes glow glows sparkle \
    sparkles bloom blooms blow blows blew reach reaches stare stares gaze gazes point points pray prays kneel \
    kneels knelt march marches gallop gallops swing swings slide slides skate skates ski skis";

/// Nouns that end like verbs and adverbs.
const NOUNS: &str = "\
    building ceiling clothing duckling earring evening king lightning morning painting railing ring spring string wedding \
    wing thing sling herring starling sibling dumpling pudding icing awning \
    gosling seedling sapling darling viking vikings bedding bling \
    bed seed shed sled weed reed speed breed feed deed steed moped seaweed hundred bobsled flowerbed \
    butterfly family lily jelly belly bully dragonfly firefly housefly assembly italy ally rally \
    waterlily fireflies holly trolly dolly gully bear bears leaves leaf lights";

/// What names the picture rather than something in it.
const PICTURES: &str = "\
    close-up closeup depiction drawing etching illustration image painting photo photograph photography picture portrait \
    print render rendering shot sketch snapshot view watercolor watercolour screenshot";

/// What counts or heaps things, before "of".
const COUNTS: &str = "\
    pair couple group bunch lot lots number variety flock herd pack swarm crowd row collection series pile stack heap \
    slice piece hundreds thousands dozens millions plenty kind type sort part";

static CLASSES: LazyLock<HashMap<&'static str, Class>> = LazyLock::new(|| {
    let lists = [
        (VERBS, Class::Verb),
        (ADJECTIVES, Class::Adjective),
        (NOUNS, Class::Noun),
        (PICTURES, Class::Picture),
        (COUNTS, Class::Count),
        (OTHERS, Class::Other),
        (DIRECTIONS, Class::Direction),
        (JOINING, Class::And),
        (PLACES, Class::Place),
        (ARTICLES, Class::Article),
        ("of", Class::Of),
    ];
    // A later list goes before an earlier one.
    lists.iter().flat_map(|(words, class)| words.split_whitespace().map(|word| (word, *class))).collect()
});

/// The class of a word in lower case; `None` for most nouns, and for whatever is not known.
pub(super) fn class_of(word: &str) -> Option<Class> {
    CLASSES.get(word).copied()
}
