//! The names of all texts, and the facts that each is filled with.

macro_rules! names {
    ($($name:ident = $label:literal [$($fact:literal),*],)*) => {
        /// One text of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Name {
            $($name,)*
        }

        impl Name {
            /// Every text.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in the table.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// What this engine tells in it.
            pub fn facts(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &[$($fact),*],)*
                }
            }
        }
    };
}

names! {
    Malformed = "MALFORMED" ["message"],
    NoRequest = "NO_REQUEST" [],
    UnknownModel = "UNKNOWN_MODEL" ["model", "known"],
    NoModels = "NO_MODELS" ["model"],
    UnknownVersion = "UNKNOWN_VERSION" ["version", "model", "known"],
    Loading = "LOADING" ["model"],
    NotLoaded = "NOT_LOADED" ["model", "why"],
    NoRepository = "NO_REPOSITORY" ["name"],
    Halted = "HALTED" ["model", "actor", "why"],
    Draining = "DRAINING" [],
    PinRefused = "PIN_REFUSED" ["version", "model"],
    OverloadedInFlight = "OVERLOADED_IN_FLIGHT" ["count", "bound"],
    ClientInFlight = "CLIENT_IN_FLIGHT" ["count", "bound"],
    OverloadedWait = "OVERLOADED_WAIT" ["wait_us", "model", "bound_us"],
    Deadline = "DEADLINE" [],
    DeadlineRan = "DEADLINE_RAN" [],
    Internal = "INTERNAL" [],
    Fault = "FAULT" [],
    AnswerTooLong = "ANSWER_TOO_LONG" ["size", "bound"],
    DescriptionTooLong = "DESCRIPTION_TOO_LONG" ["size", "bound"],
    TooLong = "TOO_LONG" ["name", "size", "bound"],
    TooManyParameters = "TOO_MANY_PARAMETERS" ["got", "bound"],
    SharedMemory = "SHARED_MEMORY" ["name"],
    Sequences = "SEQUENCES" ["name"],
    Classification = "CLASSIFICATION" ["name"],
    ParameterUnknown = "PARAMETER_UNKNOWN" ["name", "known"],
    NotMicroseconds = "NOT_MICROSECONDS" ["name"],
    NotNanoseconds = "NOT_NANOSECONDS" ["name"],
    NotAString = "NOT_A_STRING" ["name"],
    NotHexadecimal = "NOT_HEXADECIMAL" ["name"],
    InputMissing = "INPUT_MISSING" ["tensor", "expected"],
    InputUnknown = "INPUT_UNKNOWN" ["tensor", "expected"],
    InputTwice = "INPUT_TWICE" ["tensor"],
    OutputUnknown = "OUTPUT_UNKNOWN" ["tensor", "expected"],
    OutputTwice = "OUTPUT_TWICE" ["tensor"],
    Datatype = "DATATYPE" ["tensor", "got", "expected"],
    Rank = "RANK" ["tensor", "got", "rank", "expected"],
    Dimension = "DIMENSION" ["tensor", "got", "expected"],
    Empty = "EMPTY" ["tensor", "got"],
    RowsDiffer = "ROWS_DIFFER" ["tensor", "got", "expected"],
    TooManyRows = "TOO_MANY_ROWS" ["got", "model", "bound"],
    RawAndTyped = "RAW_AND_TYPED" ["tensor"],
    RawCount = "RAW_COUNT" ["got", "expected"],
    RawLength = "RAW_LENGTH" ["tensor", "got", "expected", "datatype", "shape"],
    RawBytes = "RAW_BYTES" ["tensor", "element", "expected"],
    NotBool = "NOT_BOOL" ["tensor"],
    NotText = "NOT_TEXT" ["tensor"],
    TypedLength = "TYPED_LENGTH" ["tensor", "got", "field", "expected", "datatype", "shape"],
    TypedField = "TYPED_FIELD" ["tensor", "datatype", "got", "field"],
    TypedRange = "TYPED_RANGE" ["tensor", "datatype"],
    OnlyRaw = "ONLY_RAW" ["tensor", "datatype"],
    NotFinite = "NOT_FINITE" ["tensor", "row", "column", "value"],
    FeatureNotFinite = "FEATURE_NOT_FINITE" ["tensor", "row", "column", "feature", "value"],
    OutOfBounds = "OUT_OF_BOUNDS" ["feature", "row", "value", "minimum", "maximum"],
    NotOneFloatInput = "NOT_ONE_FLOAT_INPUT" ["model"],
    FeaturesAndNamed = "FEATURES_AND_NAMED" [],
    FeatureCount = "FEATURE_COUNT" ["got", "expected", "rows", "steps", "width"],
    Steps = "STEPS" ["got", "model", "expected"],
    NamedRows = "NAMED_ROWS" ["rows", "steps"],
    NamesNotKnown = "NAMES_NOT_KNOWN" ["model"],
    FeatureUnknown = "FEATURE_UNKNOWN" ["feature", "expected"],
    FeatureTwice = "FEATURE_TWICE" ["feature"],
    FeatureMissing = "FEATURE_MISSING" ["feature"],
    FeaturesChanged = "FEATURES_CHANGED" ["version", "model"],
    DigestLength = "DIGEST_LENGTH" ["got"],
    Entities = "ENTITIES" ["got", "rows"],
    EventTimeAbsent = "EVENT_TIME_ABSENT" ["model"],
    EventTimeOld = "EVENT_TIME_OLD" ["age_s", "bound_s"],
    EventTimeFuture = "EVENT_TIME_FUTURE" ["ahead_s", "bound_s"],
    OutputRule = "OUTPUT_RULE" ["rule", "version", "model"],
    AdminOnly = "ADMIN_ONLY" [],
    UnknownService = "UNKNOWN_SERVICE" ["service"],
    IndexHalted = "INDEX_HALTED" ["actor", "why"],
    IndexKeptWarm = "INDEX_KEPT_WARM" [],
    ReflectionNothing = "REFLECTION_NOTHING" [],
    ReflectionUnknown = "REFLECTION_UNKNOWN" ["what"],
    ChangeUnsigned = "CHANGE_UNSIGNED" ["name"],
}
