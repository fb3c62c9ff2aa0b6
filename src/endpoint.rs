//! Words: the endpoints that are sold.
//!
//! A closed set: what is not in it is refused and never passed through unbilled. What a request to
//! an endpoint asks for is read in `proxy::request`, what its answer says in `meter::dialect`: one
//! file each.

/// The name of where files are kept.
pub const FILES: &str = "files";

/// The name of where requests in files are answered.
pub const BATCHES: &str = "batches";

/// Where a request is sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Chat completions.
    Chat,
    /// Responses, made of items.
    Responses,
    /// Messages, as Anthropic speaks it.
    Messages,
    /// Completions of a prompt, as before there were chats.
    Completions,
    /// Embeddings of texts.
    Embeddings,
    /// What a text may be objected to. Free of charge.
    Moderations,
    /// Images made from a text.
    ImageGenerations,
    /// Images made from a text and images.
    ImageEdits,
    /// Speech made from a text.
    Speech,
    /// What is said in some audio.
    Transcriptions,
    /// The same, in English.
    Translations,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Endpoint; 11] = [
        Endpoint::Chat,
        Endpoint::Responses,
        Endpoint::Messages,
        Endpoint::Completions,
        Endpoint::Embeddings,
        Endpoint::Moderations,
        Endpoint::ImageGenerations,
        Endpoint::ImageEdits,
        Endpoint::Speech,
        Endpoint::Transcriptions,
        Endpoint::Translations,
    ];

    /// The name used in receipts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Endpoint::Chat => "chat.completions",
            Endpoint::Responses => "responses",
            Endpoint::Messages => "messages",
            Endpoint::Completions => "completions",
            Endpoint::Embeddings => "embeddings",
            Endpoint::Moderations => "moderations",
            Endpoint::ImageGenerations => "images.generations",
            Endpoint::ImageEdits => "images.edits",
            Endpoint::Speech => "audio.speech",
            Endpoint::Transcriptions => "audio.transcriptions",
            Endpoint::Translations => "audio.translations",
        }
    }

    /// Its path below a base URL such as `https://api.openai.com/v1`.
    pub const fn path(self) -> &'static str {
        match self {
            Endpoint::Chat => "/chat/completions",
            Endpoint::Responses => "/responses",
            Endpoint::Messages => "/messages",
            Endpoint::Completions => "/completions",
            Endpoint::Embeddings => "/embeddings",
            Endpoint::Moderations => "/moderations",
            Endpoint::ImageGenerations => "/images/generations",
            Endpoint::ImageEdits => "/images/edits",
            Endpoint::Speech => "/audio/speech",
            Endpoint::Transcriptions => "/audio/transcriptions",
            Endpoint::Translations => "/audio/translations",
        }
    }

    /// Whether providers take no money for it.
    pub const fn is_free(self) -> bool {
        match self {
            Endpoint::Chat
            | Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::ImageGenerations
            | Endpoint::ImageEdits
            | Endpoint::Speech
            | Endpoint::Transcriptions
            | Endpoint::Translations => false,
            Endpoint::Moderations => true,
        }
    }

    /// The one at this path of ours, if it is sold.
    pub fn at(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v1")?;
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }
}
