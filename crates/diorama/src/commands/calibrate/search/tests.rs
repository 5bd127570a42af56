use super::*;

const SLACK: f64 = 0.05;

fn space() -> Space {
    let layers = ["down_blocks.0.attentions.0.x", "up_blocks.2.attentions.0.x"].map(str::to_owned);
    Space::of(&layers, 22, |_, _| true)
}

fn start() -> Candidate {
    let layers = vec!["up_blocks.2.attentions.0.x".to_owned()];
    Candidate { score: Score::ReluGrad, layers, threshold: 0.5, edit_steps: vec![2, 9, 14] }
}

fn column(figures: &[(f64, f64)]) -> Column {
    figures.iter().map(|&(subject, place)| Some(Figures { subject, place })).collect()
}

/// Runs a search in a world that says what a candidate's pictures are worth; gives what it found and how many pictures
/// it asked for, those that it asked for twice once.
fn searched(
    allotment: Allotment,
    world: impl Fn(&Candidate, usize) -> Option<Figures>,
) -> (Candidate, Vec<Step>, usize) {
    let axes = vec![Axis::Score, Axis::Threshold, Axis::EditSteps];
    let mut search = Search::new(space(), axes, start(), allotment, SLACK);
    let mut made: Vec<(Candidate, usize)> = Vec::new();
    while let Some(round) = search.round() {
        assert_eq!(search.round().as_ref(), Some(&round), "asking twice changes nothing");
        for candidate in &round.candidates {
            made.extend(round.samples.clone().map(|at| (candidate.clone(), at)));
        }
        let column = |candidate: &Candidate| round.samples.clone().map(|at| world(candidate, at)).collect();
        search.tell(round.candidates.iter().map(column).collect());
    }
    let mut once: Vec<(Candidate, usize)> = Vec::new();
    made.into_iter().for_each(|one| {
        if !once.contains(&one) {
            once.push(one)
        }
    });
    let (found, steps) = search.end();
    (found, steps, once.len())
}

fn options() -> Vec<usize> {
    [Axis::Score, Axis::Threshold, Axis::EditSteps].map(|axis| space().options(axis, &start()).len()).to_vec()
}

#[test]
fn the_best_of_each_axis_is_found_within_the_pictures_that_were_allotted() {
    let allotment = Allotment::of(200, &options(), 3, 100).unwrap();
    let world = |candidate: &Candidate, at: usize| {
        let score = if candidate.score == Score::Attention { 1.0 } else { 0.0 };
        let place = 20.0 + score - (candidate.threshold - 1.5).abs() + candidate.edit_steps.len() as f64 * 0.1;
        // Pictures differ far more than settings do: only in pairs can they be told apart.
        Some(Figures { subject: 1.0, place: place + (at * 7 % 5) as f64 * 10.0 })
    };
    let (found, steps, made) = searched(allotment, world);
    assert_eq!((found.score, found.threshold, found.edit_steps.len()), (Score::Attention, 1.5, 5));
    assert_eq!(steps.len(), 3);
    assert!(made + 3 * allotment.confirm <= allotment.pictures && allotment.pictures <= 200, "{made} {allotment:?}");
}

#[test]
fn settings_that_lose_the_subject_do_not_win_however_much_of_the_place_they_keep() {
    let allotment = Allotment::of(200, &options(), 3, 100).unwrap();
    // Above 1.0 the mask is so small that the reference comes back as it was.
    let world = |candidate: &Candidate, at: usize| {
        let lost = candidate.threshold > 1.0 && at.is_multiple_of(3);
        Some(Figures { subject: if lost { 0.0 } else { 1.0 }, place: 20.0 + candidate.threshold * 5.0 })
    };
    assert_eq!(searched(allotment, world).0.threshold, 1.0);
}

#[test]
fn where_nothing_differs_the_settings_in_force_stay() {
    let allotment = Allotment::of(200, &options(), 3, 100).unwrap();
    let (found, steps, _) = searched(allotment, |_, _| Some(Figures { subject: 1.0, place: 20.0 }));
    assert_eq!(found, start());
    assert!(steps.iter().all(|step| step.best == 0));
}

#[test]
fn what_fails_where_others_do_not_is_last_and_a_picture_that_nobody_measured_is_left_out() {
    let mut broken = column(&[(1.0, 40.0); 4]);
    broken[2] = None;
    let columns = [column(&[(1.0, 20.0); 4]), broken, column(&[(1.0, 21.0); 4])];
    assert_eq!(ranking(&columns, SLACK), [2, 0, 1]);
    let unmeasured = columns.map(|mut column| {
        column[2] = None;
        column
    });
    assert_eq!(ranking(&unmeasured, SLACK), [1, 2, 0]);
    assert_eq!(ranking(&[vec![None], vec![None]], SLACK), [0, 1]);
}

#[test]
fn behind_those_that_keep_the_subject_the_others_stand_by_how_often_they_do() {
    let of = |subject: f64, place: f64| column(&[(subject, place); 3]);
    assert_eq!(ranking(&[of(0.5, 30.0), of(1.0, 20.0), of(0.97, 22.0), of(0.6, 25.0)], SLACK), [2, 1, 3, 0]);
}

#[test]
fn more_budget_never_means_fewer_pictures_and_too_little_says_how_much_would_do() {
    let options = options();
    let least = Allotment::of(1, &options, 3, 100).unwrap_err();
    assert_eq!(Allotment::of(least, &options, 3, 100).unwrap().search, 2);
    assert_eq!(Allotment::of(least - 1, &options, 3, 100), Err(least));
    let mut before = 0;
    for budget in least..2000 {
        let allotment = Allotment::of(budget, &options, 3, 30).unwrap();
        assert!(allotment.pictures <= budget && (before..=30).contains(&allotment.search), "{budget} {allotment:?}");
        before = allotment.search;
    }
    assert_eq!(before, 30, "there are no more pictures than references and seeds");
}
