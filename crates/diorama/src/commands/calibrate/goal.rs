//! What is to be kept, and what can say how well it was: the subject by the judge or by CLIP, the place by PSNR on a region
//! that no picture's own mask decides.

use std::path::PathBuf;

use diorama_core::settings::{Settings, Size};
use diorama_core::task::Task;
use diorama_engine::LibtorchGenerator;
use diorama_engine::device::Device;
use diorama_evaluation::Error;
use diorama_evaluation::networks::{Kind, Networks};
use diorama_evaluation::row::Row;
use serde::Serialize;

use super::rows::Rows;
use super::search::Figures;
use crate::exit::Failure;

/// What says whether the subject is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Subject {
    /// The bundled judge: the shape and colour that the prompt names.
    JudgeRight,
    /// CLIPScore of the region alone.
    ClipInside,
    /// CLIPScore of the picture.
    Clip,
}

impl Subject {
    /// The measure, as docs/evaluation.md calls it.
    pub(super) fn measure(self) -> &'static str {
        match self {
            Self::JudgeRight => "judge_right",
            Self::ClipInside => "clip_inside",
            Self::Clip => "clip",
        }
    }

    /// What settings may lose of it against the best and still count as keeping the subject: one picture of twenty, or
    /// half a point of CLIPScore, a tenth of what lies between published methods (docs/evaluation.md).
    pub(super) fn slack(self) -> f64 {
        match self {
            Self::JudgeRight => 0.05,
            Self::ClipInside | Self::Clip => 0.5,
        }
    }
}

/// Where the place is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// Outside the regions of the rows.
    Given,
    /// Outside every object that the judge sees in any of the pictures that are compared.
    Common,
    /// Everywhere: no row says where its subject may be.
    Whole,
}

impl Place {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Given => "outside the region of each row",
            Self::Common => "outside every object that the judge sees in any of the pictures compared",
            Self::Whole => {
                "of the whole picture, its subject included: no row gives a region. This favours settings that change \
                 little, and does not say how much of the place was kept"
            }
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Goal {
    pub(super) subject: Subject,
    pub(super) place: Place,
}

impl Goal {
    /// What the networks below `roots` can say of these rows, and the networks.
    ///
    /// # Errors
    /// Where nothing can say whether a subject is there: by the place alone, settings that change nothing are best.
    pub(super) fn of(
        rows: &Rows,
        roots: &[PathBuf],
        device: Device,
        generator: &LibtorchGenerator,
    ) -> Result<(Self, Networks), Failure> {
        let load = |kind| {
            Networks::load_some(&[kind], roots, device).map_err(|error| Failure::judged(error, Error::is_retryable))
        };
        let given = rows.all_have_regions();
        let judges = load(Kind::Judge)?;
        let stranger = rows.tasks.iter().find(|task| !judge_knows(&judges, generator, task));
        if judges.judge.is_some() && stranger.is_none() {
            let place = if given { Place::Given } else { Place::Common };
            return Ok((Self { subject: Subject::JudgeRight, place }, judges));
        }
        let clips = load(Kind::Clip)?;
        if clips.clip.is_some() {
            let (subject, place) =
                if given { (Subject::ClipInside, Place::Given) } else { (Subject::Clip, Place::Whole) };
            return Ok((Self { subject, place }, clips));
        }
        let judge = match (judges.judge.is_some(), stranger) {
            (true, Some(task)) => format!(
                " The judge that is there knows the bundled model's pictures and words only, and not the row {} ({:?}).",
                task.custom_id,
                task.prompt.chars().take(60).collect::<String>()
            ),
            _ => String::new(),
        };
        Err(Failure::permanent(anyhow::anyhow!(
            "nothing here can say whether a picture shows its subject, and by the place alone the best settings would be \
             those that change nothing.{judge} Give --networks DIR with {} ({}); for the bundled model --networks models/eval",
            Kind::Clip.folder(),
            Kind::Clip.origin()
        )))
    }

    /// What a row of the evaluation says.
    pub(super) fn figures(&self, row: &Row) -> Option<Figures> {
        let measure = |name: &str| row.measures.get(name).copied();
        Some(Figures { subject: measure(self.subject.measure())?, place: measure("psnr")? })
    }
}

fn judge_knows(networks: &Networks, generator: &LibtorchGenerator, task: &Task) -> bool {
    let Some(judge) = &networks.judge else { return false };
    let wanted = Settings { size: task.settings.size, ..Settings::default() };
    let size = match task.settings.size {
        Some(Size::Reference) => None,
        _ => generator.in_force(&wanted).ok().map(|force| force.size),
    };
    size.is_some_and(|(width, height)| judge.knows(width, height)) && judge.expected(&task.prompt).is_some()
}
