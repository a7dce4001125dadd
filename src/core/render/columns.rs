//! Tables on little room: which columns stay, how wide they are, and how a text is cut.
//!
//! Invariant: the rows are never wider than asked, and the end of a name, where pods differ, is cut last.

/// A column, and what it can do without.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head.
    pub name: &'static str,
    /// Characters below which it says nothing.
    pub least: usize,
    /// The higher, the sooner it is left out; 0 stays.
    pub rank: u8,
    /// Whether the end is what matters, as in a pod's name.
    pub keeps_end: bool,
}

/// Columns that fit, with their rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// Heads of those that stay.
    pub heads: Vec<&'static str>,
    /// Their widths, in characters.
    pub widths: Vec<usize>,
    /// The cells, cut to the widths.
    pub rows: Vec<Vec<String>>,
}

/// Fits rows into `width` characters, of which each column after the first takes `gap` more.
#[must_use]
pub fn fit<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: usize, gap: usize) -> Fitted {
    let natural: Vec<usize> = (0..N)
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([columns[at].name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let least = |at: usize| natural[at].min(columns[at].least.max(columns[at].name.chars().count()));
    let mut kept: Vec<usize> = (0..N).collect();
    let gaps = |kept: &[usize]| gap * kept.len().saturating_sub(1);
    while kept.iter().map(|at| least(*at)).sum::<usize>() + gaps(&kept) > width {
        let Some(gone) = kept.iter().copied().filter(|at| columns[*at].rank > 0).max_by_key(|at| columns[*at].rank)
        else {
            break;
        };
        kept.retain(|at| *at != gone);
    }
    let room = width.saturating_sub(gaps(&kept));
    let mut widths: Vec<usize> = kept.iter().map(|at| least(*at)).collect();
    // Narrower than that: each gets a share.
    if widths.iter().sum::<usize>() > room {
        let share = room / kept.len().max(1);
        widths.fill(share);
        if let Some(first) = widths.first_mut() {
            *first = room - share * (kept.len() - 1);
        }
    }
    // What is left goes evenly to those that stay longest, then to the others.
    let mut spare = room - widths.iter().sum::<usize>().min(room);
    let mut ranks: Vec<u8> = kept.iter().map(|at| columns[*at].rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    for rank in ranks {
        let wants = |widths: &[usize], at: usize| columns[kept[at]].rank == rank && widths[at] < natural[kept[at]];
        while spare > 0 && (0..kept.len()).any(|at| wants(&widths, at)) {
            for at in 0..kept.len() {
                if spare > 0 && wants(&widths, at) {
                    widths[at] += 1;
                    spare -= 1;
                }
            }
        }
    }
    let cells = |row: &[String; N]| {
        let cells = kept.iter().zip(&widths).map(|(at, width)| cut(&row[*at], *width, columns[*at].keeps_end));
        cells.collect::<Vec<_>>()
    };
    Fitted { heads: kept.iter().map(|at| columns[*at].name).collect(), rows: rows.iter().map(cells).collect(), widths }
}

/// The text in at most so many characters, with `…` for what is gone.
#[must_use]
pub fn cut(text: &str, width: usize, keeps_end: bool) -> String {
    let count = text.chars().count();
    match width {
        _ if count <= width => text.to_owned(),
        0 => String::new(),
        _ if keeps_end => format!("…{}", text.chars().skip(count - (width - 1)).collect::<String>()),
        _ => format!("{}…", text.chars().take(width - 1).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { name: "pod", least: 7, rank: 0, keeps_end: true },
        Column { name: "member", least: 9, rank: 0, keeps_end: false },
        Column { name: "node", least: 6, rank: 1, keeps_end: true },
    ];

    fn row(cells: [&str; 3]) -> [String; 3] {
        cells.map(str::to_owned)
    }

    #[test]
    fn names_keep_their_end_and_columns_go_by_their_rank() {
        let rows = [row(["cart-7d9c6b5f4d-x2x7k", "Up, unreachable", "node-17"])];
        let wide = fit(&COLUMNS, &rows, 80, 2);
        assert_eq!(wide.rows, [["cart-7d9c6b5f4d-x2x7k", "Up, unreachable", "node-17"]]);
        let less = fit(&COLUMNS, &rows, 40, 2);
        assert_eq!(less.rows, [["…9c6b5f4d-x2x7k", "Up, unreachable", "…de-17"]]);
        let little = fit(&COLUMNS, &rows, 18, 2);
        assert_eq!(little.heads, ["pod", "member"]);
        assert_eq!(little.rows, [["…-x2x7k", "Up, unre…"]]);
        for width in 0..60 {
            let fitted = fit(&COLUMNS, &rows, width, 2);
            let widest = fitted.rows[0].iter().map(|cell| cell.chars().count()).sum::<usize>();
            assert!(widest + 2 * (fitted.heads.len() - 1) <= width.max(2), "{width}: {fitted:?}");
        }
    }
}
