/** Where the methods come from, as data: a program can print the sources of what it used. */

/**
 * A publication.
 *
 * @since 0.1.0
 */
export interface Source {
  readonly authors: string;
  readonly year: number;
  readonly title: string;
  readonly venue: string;
  /** An address that stays, where there is one. */
  readonly url?: string;
}

const momentum: readonly Source[] = [
  {
    authors: "B. T. Polyak",
    year: 1964,
    title: "Some methods of speeding up the convergence of iteration methods",
    venue: "USSR Computational Mathematics and Mathematical Physics 4(5)",
    url: "https://doi.org/10.1016/0041-5553(64)90137-5",
  },
];

const adam: readonly Source[] = [
  {
    authors: "D. P. Kingma, J. Ba",
    year: 2015,
    title: "Adam: a method for stochastic optimization",
    venue: "ICLR",
    url: "https://arxiv.org/abs/1412.6980",
  },
];

const adamw: readonly Source[] = [
  {
    authors: "I. Loshchilov, F. Hutter",
    year: 2019,
    title: "Decoupled weight decay regularization",
    venue: "ICLR",
    url: "https://arxiv.org/abs/1711.05101",
  },
];

/**
 * The sources by the name of the method, as plans and optimizers name it.
 *
 * @example When a method was published
 * ```ts
 * assert(ct.optim.sources["adam"]![0]!.year === 2015);
 * ```
 * @since 0.1.0
 */
export const sources: Readonly<Record<string, readonly Source[]>> = {
  sgd: [
    {
      authors: "H. Robbins, S. Monro",
      year: 1951,
      title: "A stochastic approximation method",
      venue: "Annals of Mathematical Statistics 22(3)",
      url: "https://doi.org/10.1214/aoms/1177729586",
    },
  ],
  momentum,
  heavyBall: momentum,
  nesterov: [
    {
      authors: "Y. Nesterov",
      year: 1983,
      title: "A method for solving the convex programming problem with convergence rate O(1/k²)",
      venue: "Soviet Mathematics Doklady 27",
    },
    {
      authors: "I. Sutskever, J. Martens, G. Dahl, G. Hinton",
      year: 2013,
      title: "On the importance of initialization and momentum in deep learning",
      venue: "ICML",
      url: "https://proceedings.mlr.press/v28/sutskever13.html",
    },
  ],
  adam,
  scaleByAdam: adam,
  adamw,
  addDecayedWeights: adamw,
  cosineSchedule: [
    {
      authors: "I. Loshchilov, F. Hutter",
      year: 2017,
      title: "SGDR: stochastic gradient descent with warm restarts",
      venue: "ICLR",
      url: "https://arxiv.org/abs/1608.03983",
    },
  ],
  clipByGlobalNorm: [
    {
      authors: "R. Pascanu, T. Mikolov, Y. Bengio",
      year: 2013,
      title: "On the difficulty of training recurrent neural networks",
      venue: "ICML",
      url: "https://arxiv.org/abs/1211.5063",
    },
  ],
  lanczos: [
    {
      authors: "C. Lanczos",
      year: 1950,
      title:
        "An iteration method for the solution of the eigenvalue problem of linear differential and integral operators",
      venue: "Journal of Research of the National Bureau of Standards 45(4)",
      url: "https://doi.org/10.6028/jres.045.026",
    },
  ],
  tridiagonalEigen: [
    {
      authors: "H. Bowdler, R. S. Martin, C. Reinsch, J. H. Wilkinson",
      year: 1968,
      title: "The QR and QL algorithms for symmetric matrices",
      venue: "Numerische Mathematik 11",
      url: "https://doi.org/10.1007/BF02166681",
    },
  ],
  hvp: [
    {
      authors: "B. A. Pearlmutter",
      year: 1994,
      title: "Fast exact multiplication by the Hessian",
      venue: "Neural Computation 6(1)",
      url: "https://doi.org/10.1162/neco.1994.6.1.147",
    },
  ],
  fosi: [
    {
      authors: "H. Sivan, M. Gabel, A. Schuster",
      year: 2024,
      title: "FOSI: hybrid first and second order optimization",
      venue: "ICLR",
      url: "https://arxiv.org/abs/2302.08484",
    },
  ],
  published: [
    {
      authors: "S. Gu, C. You, B. Ren, L. Luo, J. Xia, D. Guo",
      year: 2025,
      title: "DHO2: accelerating distributed hybrid order optimization via model parallelism and ADMM",
      venue: "arXiv",
      url: "https://arxiv.org/abs/2505.00982",
    },
  ],
  consensus: [
    {
      authors: "S. Boyd, N. Parikh, E. Chu, B. Peleato, J. Eckstein",
      year: 2011,
      title:
        "Distributed optimization and statistical learning via the alternating direction method of multipliers",
      venue: "Foundations and Trends in Machine Learning 3(1)",
      url: "https://doi.org/10.1561/2200000016",
    },
    {
      authors: "S. Zhou, G. Y. Li",
      year: 2023,
      title: "Federated learning via inexact ADMM",
      venue: "IEEE Transactions on Pattern Analysis and Machine Intelligence 45(8)",
      url: "https://arxiv.org/abs/2204.10607",
    },
  ],
};

/** Methods that nobody has to be cited for. */
const unpublished: readonly string[] = ["clipByValue", "scaleByLearningRate"];

/**
 * The sources of a method, one line each.
 *
 * Shapes: a list of strings.
 * Units: none.
 *
 * @param name a method as plans and optimizers name it; `fosi(adam)` gives the sources of both, and a chain those of
 * its parts: parts without sources, and parts of one's own, give none
 * @throws {RangeError} if a method is not known
 * @example A hybrid
 * ```ts
 * assert(ct.optim.cite("fosi(adam)").length === 2);
 * assert(ct.optim.cite("adam")[0]!.startsWith("D. P. Kingma, J. Ba (2015). Adam"));
 * ```
 * @since 0.1.0
 */
export function cite(name: string): readonly string[] {
  const isChain = name.includes(" > ");
  return name.split(/[()]| > /).flatMap((part) => {
    if (part === "") return [];
    const found = Object.hasOwn(sources, part) ? sources[part] : undefined;
    if (found) return found.map(showSource);
    if (isChain || unpublished.includes(part)) return [];
    throw new RangeError(
      `Cannot cite "${part}": it is not a known method, one of ${Object.keys(sources).join(", ")} is needed`,
    );
  });
}

function showSource({ authors, year, title, venue, url }: Source): string {
  return `${authors} (${year}). ${title}. ${venue}.${url ? ` ${url}` : ""}`;
}
