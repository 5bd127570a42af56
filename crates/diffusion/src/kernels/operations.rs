//! The operations on tensors: which operands the kernels take, and how many blocks of what they are launched over.
//!
//! How a row is cut follows from its own shape, never from the number of rows, so that its bytes do not depend on its
//! batch mates.

use tch::{Kind, Tensor};

use super::launch::{Argument, PACKED, ROW_SUMS, THREADS, UNPACKED};
use super::{Kernels, Own};
use crate::error::Result;

/// Shared memory that a block has on every GPU without asking for more, in bytes.
const SHARED: i64 = 48 << 10;

/// Numbers in a chunk of a feature map, which one block reads: large against what a block costs, and small enough that a
/// batch of one has blocks for a whole GPU.
const CHUNK: i64 = 16 << 10;

/// Numbers in a tensor at most: the kernels count in `int`, a chunk beyond the end.
const LARGEST: i64 = i32::MAX as i64 - 2 * CHUNK;

/// Threads that share the sum of a group: `LANES` of cuda/group_norm.cuh.
const LANES: i64 = 8;

/// Rows of `x` that a block of the row sums has, what `x` and `y` have in common at most, and the bytes of shared memory for
/// rows of `y`: `ROWS`, `INNER`, `COLUMNS` · `STRIDE` of cuda/row_sums.cuh.
const ROWS: i64 = 128;
const INNER: i64 = 64;
const TILE: i64 = 64 * (INNER + 8) * size_of::<u16>() as i64;

/// Rows of `y` that one block goes through: enough blocks for a GPU, and few sums that are left to add.
const COLUMNS: i64 = 2048;

/// The parameters of a normalisation.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// `[C]`.
    pub weight: &'a Tensor,
    /// `[C]`.
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// A storage of numbers that there are kernels for.
struct Storage {
    name: &'static str,
    /// Numbers in 16 bytes.
    pack: i64,
}

fn storage(kind: Kind) -> Option<Storage> {
    match kind {
        Kind::Float => Some(Storage { name: "f32", pack: 4 }),
        Kind::BFloat16 => Some(Storage { name: "bf16", pack: 8 }),
        Kind::Half => Some(Storage { name: "f16", pack: 8 }),
        _ => None,
    }
}

/// How many parts of `size` it takes for `whole`.
fn parts(whole: i64, size: i64) -> i64 {
    (whole + size - 1) / size
}

/// The name of every kernel.
pub(super) fn every_name() -> impl Iterator<Item = String> {
    let storages = [Kind::Float, Kind::BFloat16, Kind::Half].into_iter().filter_map(storage);
    let of_all = storages.flat_map(|storage| {
        let packed = PACKED
            .into_iter()
            .flat_map(move |kernel| [storage.pack, 1].map(|pack| format!("{kernel}_{}_{pack}", storage.name)));
        packed.chain([format!("{UNPACKED}_{}", storage.name)])
    });
    of_all.chain([format!("{ROW_SUMS}_bf16_8"), format!("{ROW_SUMS}_bf16_1")])
}

/// Operands that the kernels take: of one storage, on the kernels' device, outside of a graph.
struct Operands<'a> {
    own: &'a Own,
    storage: Storage,
    pack: i64,
}

impl<'a> Operands<'a> {
    /// Those that are read in packs, of which each has `channels` numbers side by side, and those that are read one by one.
    fn of(kernels: &'a Kernels, channels: i64, packed: &[&Tensor], single: &[Option<&Tensor>]) -> Option<Self> {
        let own = kernels.0.as_deref()?;
        let kind = packed.first()?.kind();
        let storage = storage(kind)?;
        let takes = |x: &&Tensor| {
            x.device() == own.device
                && x.kind() == kind
                && x.is_contiguous()
                && !x.requires_grad()
                && (1..=LARGEST).contains(&(x.numel() as i64))
        };
        if !packed.iter().chain(single.iter().flatten()).all(takes) {
            return None;
        }
        let aligned = |x: &&Tensor| (x.data_ptr() as usize).is_multiple_of(16);
        let whole = channels % storage.pack == 0 && packed.iter().all(aligned);
        let pack = if whole { storage.pack } else { 1 };
        Some(Self { own, storage, pack })
    }

    /// Starts a kernel.
    #[allow(unsafe_code)]
    fn start(&self, kernel: &str, grid: [i64; 2], shared: i64, arguments: &[Argument<'_>]) -> Result<()> {
        let name = match kernel {
            UNPACKED => format!("{kernel}_{}", self.storage.name),
            _ => format!("{kernel}_{}_{}", self.storage.name, self.pack),
        };
        let grid = grid.map(|blocks| blocks as u32);
        // SAFETY: only the operations below start kernels, each with the arguments of its kernel's source; all tensors
        // went through `of` or were made here; shapes were compared; tests run these launches on a CPU, within bounds.
        unsafe { self.own.launcher.launch(&name, grid, shared as u32, arguments) }
    }
}

impl Kernels {
    /// Group normalisation of `x` `[B, C, h, w]` plus `bias` `[C]` plus `time` `[1 or B, C, 1, 1]` over groups of channels, then
    /// SiLU if `silu`: `[B, C, h, w]`, the channels of a pixel side by side.
    ///
    /// # Errors
    /// As for each operation here, where libtorch has no memory or the device refuses.
    pub fn group_norm(
        &self,
        x: &Tensor,
        (bias, time): (Option<&Tensor>, Option<&Tensor>),
        groups: i64,
        norm: Norm<'_>,
        silu: bool,
    ) -> Result<Option<Tensor>> {
        if !self.are_own() {
            return Ok(None);
        }
        let (b, c, height, width) = x.size4()?;
        let x = x.f_permute([0, 2, 3, 1])?.f_contiguous()?;
        let single = [Some(norm.weight), Some(norm.bias), bias, time];
        let Some(operands) = Operands::of(self, c, &[&x], &single) else { return Ok(None) };
        let of_channels = |x: &Tensor| x.size() == [c];
        let time_rows = match time.map(Tensor::size).as_deref() {
            None => 1,
            Some([rows, channels, 1, 1]) if *channels == c && (*rows == 1 || *rows == b) => *rows,
            Some(_) => return Ok(None),
        };
        let fits = of_channels(norm.weight) && of_channels(norm.bias) && bias.is_none_or(of_channels);
        let lanes = (c / operands.pack).min(i64::from(THREADS));
        let shared = (i64::from(THREADS) / lanes * c + groups * LANES) * size_of::<[f32; 2]>() as i64;
        let shared_of_affine = groups * LANES * size_of::<[f64; 2]>() as i64;
        let small = shared.max(shared_of_affine) <= SHARED && b <= i64::from(u16::MAX);
        if !fits || !small || c % groups != 0 {
            return Ok(None);
        }

        let hw = height * width;
        let chunk = (CHUNK / c).clamp(1, hw);
        let chunks = parts(hw, chunk);
        let device = x.device();
        let moments = Tensor::f_empty([b, chunks, groups, 2], (Kind::Float, device))?;
        let affine = Tensor::f_empty([b, c, 2], (Kind::Float, device))?;
        let y = x.f_empty_like()?;
        let int = |value: i64| Argument::Int(value as i32);
        let memory = |x| Argument::Memory(Some(x));
        let fresh = Argument::Fresh;
        let pending = || {
            let stride = if time_rows == 1 { 0 } else { c };
            [memory(&x), Argument::Memory(bias), Argument::Memory(time), int(stride)]
        };
        let [x0, x1, x2, x3] = pending();
        let arguments = [x0, x1, x2, x3, fresh(&moments), int(hw), int(c), int(groups), int(chunk)];
        operands.start("group_norm_moments", [chunks, b], shared, &arguments)?;
        let [x0, x1, x2, x3] = pending();
        let arguments = [
            [x0, x1, x2, x3].into(),
            vec![memory(norm.weight), memory(norm.bias), memory(&moments), fresh(&affine)],
            vec![int(hw), int(c), int(groups), int(chunks), Argument::Float(norm.eps as f32)],
        ];
        let arguments: Vec<_> = arguments.into_iter().flatten().collect();
        operands.start(UNPACKED, [b, 1], shared_of_affine, &arguments)?;
        let arguments = [memory(&x), memory(&affine), fresh(&y), int(hw), int(c), int(chunk), int(i64::from(silu))];
        operands.start("group_norm_apply", [chunks, b], 0, &arguments)?;
        Ok(Some(y.f_permute([0, 3, 1, 2])?))
    }

    /// `x + addend` `[…, C]` in the memory of `x`, which nobody else may have, and its layer norm. Without an addend, `x`
    /// itself.
    pub fn add_layer_norm(
        &self,
        x: &Tensor,
        addend: Option<&Tensor>,
        norm: Norm<'_>,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let size = x.size();
        let Some(&c) = size.last() else { return Ok(None) };
        let mut operands = vec![x, norm.weight, norm.bias];
        operands.extend(addend);
        let Some(operands) = Operands::of(self, c, &operands, &[]) else { return Ok(None) };
        if norm.weight.size() != [c] || norm.bias.size() != [c] || addend.is_some_and(|addend| addend.size() != size) {
            return Ok(None);
        }
        let rows = x.numel() as i64 / c;
        let y = x.f_empty_like()?;
        let memory = |x| Argument::Memory(Some(x));
        let arguments = [
            memory(x),
            Argument::Memory(addend),
            memory(x),
            memory(norm.weight),
            memory(norm.bias),
            Argument::Fresh(&y),
            Argument::Int(rows as i32),
            Argument::Int(c as i32),
            Argument::Float(norm.eps as f32),
        ];
        operands.start("add_layer_norm", [parts(rows, i64::from(THREADS / 32)), 1], 0, &arguments)?;
        Ok(Some((x.shallow_clone(), y)))
    }

    /// `x + bias + residual + residual_bias`: a feature map `[B, C, h, w]` that nobody else may have, another one, and
    /// vectors `[C]`; in the memory of `x`.
    pub fn bias_residual(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        residual: &Tensor,
        residual_bias: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        if !self.are_own() {
            return Ok(None);
        }
        let size = x.size();
        let c = x.size4()?.1;
        let by_pixels = |x: &Tensor| x.f_permute([0, 2, 3, 1])?.f_contiguous();
        let (x, more) = (by_pixels(x)?, by_pixels(residual)?);
        let Some(operands) = Operands::of(self, c, &[&x, &more], &[bias, residual_bias]) else { return Ok(None) };
        let of_channels = |x: &Tensor| x.size() == [c];
        if residual.size() != size || !bias.is_none_or(of_channels) || !residual_bias.is_none_or(of_channels) {
            return Ok(None);
        }
        let packs = x.numel() as i64 / operands.pack;
        let arguments = [
            Argument::Memory(Some(&x)),
            Argument::Memory(bias),
            Argument::Memory(Some(&more)),
            Argument::Memory(residual_bias),
            Argument::Memory(Some(&x)),
            Argument::Int(packs as i32),
            Argument::Int(c as i32),
        ];
        operands.start("bias_residual", [parts(packs, i64::from(THREADS)), 1], 0, &arguments)?;
        Ok(Some(x.f_permute([0, 3, 1, 2])?))
    }

    /// GEGLU: of `x` `[…, 2C]`, values then gates, `value · gelu(gate)` `[…, C]`.
    pub fn geglu(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let mut size = x.size();
        let Some(last) = size.last_mut().filter(|last| **last % 2 == 0) else { return Ok(None) };
        *last /= 2;
        let c = *last;
        let Some(operands) = Operands::of(self, c, &[x], &[]) else { return Ok(None) };
        let y = Tensor::f_empty(&size, (x.kind(), x.device()))?;
        let packs = y.numel() as i64 / operands.pack;
        let arguments =
            [Argument::Memory(Some(x)), Argument::Fresh(&y), Argument::Int(packs as i32), Argument::Int(c as i32)];
        operands.start("geglu", [parts(packs, i64::from(THREADS)), 1], 0, &arguments)?;
        Ok(Some(y))
    }

    /// `Σ_j |(X Yᵀ)[i, j]|` `[n]`, float32, for bfloat16 `x` `[n, k]` and `y` `[m, k]`, k at most 64, without storing the
    /// product.
    pub fn absolute_row_sums(&self, x: &Tensor, y: &Tensor) -> Result<Option<Tensor>> {
        let (&[n, inner], &[m, other]) = (&x.size()[..], &y.size()[..]) else { return Ok(None) };
        let Some(operands) = Operands::of(self, inner, &[x, y], &[]) else { return Ok(None) };
        if x.kind() != Kind::BFloat16 || inner != other || inner > INNER {
            return Ok(None);
        }
        let splits = parts(m, COLUMNS);
        if splits > i64::from(u16::MAX) {
            return Ok(None);
        }
        let sums = Tensor::f_empty([splits, n], (Kind::Float, x.device()))?;
        let arguments = [
            Argument::Memory(Some(x)),
            Argument::Memory(Some(y)),
            Argument::Fresh(&sums),
            Argument::Int(n as i32),
            Argument::Int(m as i32),
            Argument::Int(inner as i32),
            Argument::Int(COLUMNS as i32),
        ];
        operands.start(ROW_SUMS, [parts(n, ROWS), splits], TILE, &arguments)?;
        Ok(Some(sums.f_sum_dim_intlist(0, false, Kind::Float)?))
    }
}
